"""Games of several seats: the base of a game, the match that is played, and the environment of one seat of it.

A seat is an ordinary ``AgentEnv``. The other seats are played by opponents inside it, or by whoever sits at an environment of their own
over the same ``Match``: then there is a record for each seat.
"""

from agentgym.game.match import Game, Match, Move, Player
from agentgym.game.players import Scripted, contender
from agentgym.game.seat import GameEnv
from agentgym.game.talk import MOST_SAID, Talk, TalkSeat
from agentgym.game.verdicts import Result

__all__ = ["MOST_SAID", "Game", "GameEnv", "Match", "Move", "Player", "Result", "Scripted", "Talk", "TalkSeat", "contender"]
