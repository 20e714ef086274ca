"""What looks like a secret never touches disk, and everything else stays as it was."""

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from worlds import World

from agentgym.core import Completion
from agentgym.episode import ArtefactStore, EpisodeStore, read_episodes
from agentgym.rollout import Job, Keep, Rollout
from agentgym.secrets import Redactor

SHAPES = [
    "sk-proj-" + "a1B2" * 8, "hf_" + "Ab3" * 10, "ghp_" + "x9" * 18, "AKIA" + "ABCD1234" * 2, "xoxb-123456789012-abcdef", "glpat-" + "q" * 20,
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl", "-----BEGIN RSA PRIVATE KEY-----\\nMIIE\\n-----END RSA PRIVATE KEY-----",
]  # fmt: skip


@pytest.mark.parametrize("secret", SHAPES, ids=lambda s: s[:6])
def test_what_has_the_shape_of_a_secret_is_masked_at_its_length(secret):
    told = Redactor({})(f"before {secret} after".encode())
    assert told == f"before {'*' * len(secret)} after".encode()


def test_values_of_variables_named_like_secrets_are_masked_also_as_json_writes_them():
    redact = Redactor({"MY_API_KEY": 'qu"oted-value', "DB_PASSWORD": "correct horse", "HOME": "/home/me/dir", "TOKEN_SHORT": "abc", "EDITOR": "a long value"})
    assert (
        redact(b'x qu"oted-value qu\\"oted-value correct horse /home/me/dir abc a long value')
        == b"x " + b"*" * 13 + b" " + b"*" * 14 + b" " + b"*" * 13 + b" /home/me/dir abc a long value"
    )


@given(st.binary(max_size=300))
def test_other_bytes_are_left_alone(data):
    assert Redactor({})(data) == data or b"sk-" in data


def test_a_run_leaves_no_secret_in_any_file(tmp_path, monkeypatch):
    secret, typed = "s3cr3t-value-123", SHAPES[0]
    monkeypatch.setenv("SERVICE_TOKEN", secret)

    class Leaky(World):
        def _artefacts(self):
            return {"log": f"{secret} {typed}".encode()}

    class Says:
        name = "says"

        async def act(self, conversation):
            return Completion(f"go with {secret} and {typed}")

    with EpisodeStore(tmp_path / "episodes.jsonl") as store:
        rollout = Rollout(make=Leaky, policy=Says(), keep=Keep(store, ArtefactStore(tmp_path / "artefacts")))
        (episode,) = anyio.run(rollout.run, [Job("t.0")])
    files = [p for p in tmp_path.rglob("*") if p.is_file()]
    assert len(files) == 2 and not any(s.encode() in p.read_bytes() for p in files for s in (secret, typed))
    (kept,) = read_episodes(tmp_path / "episodes.jsonl")
    assert kept.turns[0].action == f"go with {'*' * len(secret)} and {'*' * len(typed)}"
    assert ArtefactStore(tmp_path / "artefacts").get(episode.artefacts["log"]).count(b"*") == len(secret) + len(typed)
