"""Shared prefixes are computed once, and nothing changes: loss, gradient, entropy and values equal one row per sequence."""

import anyio
import msgspec
import pytest
import torch
from agentgym_trainers import packing, update
from agentgym_trainers.engine import TransformersEngine
from agentgym_trainers.packing import lay_out
from agentgym_trainers.roles import Critic
from agentgym_trainers.streams import make_batch
from agentgym_trainers.update import Part, backward, forward, sampled, score
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import model, renderer

from agentgym import make
from agentgym.core import Tokens
from agentgym.episode import Episode, Turn
from agentgym.rollout import Job, Rollout


def episodes_of(rows):
    """Episodes of one turn each from (group, ids, how many of them were sampled)."""
    out = []
    for k, (group, ids, n) in enumerate(rows):
        tokens = Tokens(ids, [0] * (len(ids) - n) + [1] * n, [0.0] * (len(ids) - n) + [-1.0] * n, {"temperature": 0.8}, [("0", n)])
        out.append(Episode(f"e{k}", "x", "t", "d", "train", group=str(group), turns=[Turn([], "a", tokens=tokens)], status="valid"))
    return out


@pytest.fixture(scope="module")
def desk_group():
    engine = TransformersEngine(model(), renderer(), max_tokens=8)
    ids = make("tools/desk").taskset.ids()[:3]
    jobs = [Job(t, attempt=i, seed=i, group=t) for t in ids for i in range(4)]
    return anyio.run(Rollout(make=lambda: make("tools/desk", limits={"max_turns": 3}), policy=engine, max_tokens=8).run, jobs)


@pytest.fixture(autouse=True)
def tokens_cost_most(monkeypatch):
    """So that prefixes are shared wherever there are any, as in a large model; this one is so small that it would not pay."""
    monkeypatch.setattr(update, "width_of", lambda config: 1e6)
    monkeypatch.setattr(packing, "FEWEST", 1)


def gradient(network, batch, share, objective="clipped"):
    network.zero_grad()
    totals = backward(network, [Part(batch, objective, kl=0.1 if "reference" in batch.scored else 0.0, entropy=0.01)], share)
    return totals["loss"], torch.cat([p.grad.flatten() for p in network.parameters()])


@pytest.mark.parametrize("objective", ["clipped", "sequence_clipped", "topr", "reinforce"])
def test_loss_and_gradient_of_a_real_batch_equal_the_unpacked_ones(desk_group, objective):
    network = model(2)
    batch = make_batch(desk_group, [(-1.0) ** i for i in range(len(desk_group))], "token")
    batch = batch.having(reference=score(model(5), batch))
    packed, padded = lay_out(batch, wide=1e6), lay_out(batch, share=False)
    assert packed.cells < 0.8 * padded.cells
    (a, x), (b, y) = gradient(network, batch, True, objective), gradient(network, batch, False, objective)
    assert a == pytest.approx(b, abs=1e-5) and torch.allclose(x, y, atol=1e-5)


def test_branches_after_a_fork_share_all_that_came_before(desk_group):
    parent = max(desk_group, key=lambda e: len(e.turns))
    forks = []
    for k in range(4):
        last = parent.turns[-1].tokens
        n = sum(last.mask)
        ids = last.ids[:-n] + [(i + k) % 500 for i in last.ids[-n:]]
        turns = [*parent.turns[:-1], msgspec.structs.replace(parent.turns[-1], tokens=msgspec.structs.replace(last, ids=ids))]
        forks.append(msgspec.structs.replace(parent, id=f"f{k}", turns=turns, parent=(parent.id, len(parent.turns) - 1)))
    batch = make_batch(forks, [1.0, -1.0, 0.5, -0.5], "token")
    whole, unique = len(batch), len(torch.unique(lay_out(batch, wide=1e6).place_N))
    n = sum(parent.turns[-1].tokens.mask)
    assert unique <= whole // 4 + 3 * n
    (a, x), (b, y) = gradient(model(1), batch, True), gradient(model(1), batch, False)
    assert a == pytest.approx(b, abs=1e-5) and torch.allclose(x, y, atol=1e-5)


def hanging(batch, *args, **options):
    """Rows on the stems of their groups, in blocks, whatever it costs."""
    pieces = packing.segments(batch)
    stems = packing._stems(batch, pieces)
    return packing._apart(batch, pieces, stems if any(stems.values()) else {}, 4)


def alike(batch, *args, **options):
    """Rows in blocks of like lengths."""
    return packing._apart(batch, packing.segments(batch), {}, 4)


@pytest.mark.parametrize("lay_out_as", [hanging, alike])
def test_loss_and_gradient_are_the_same_from_rows_in_blocks(desk_group, monkeypatch, lay_out_as):
    network = model(2)
    mixed = [msgspec.structs.replace(e, turns=e.turns[: 1 + i % 3]) for i, e in enumerate(desk_group)]
    batch = make_batch(mixed, [(-1.0) ** i for i in range(len(mixed))], "token")
    assert len(lay_out_as(batch).rows) > 1 and lay_out_as(batch).cells < lay_out(batch, share=False).cells
    b, y = gradient(network, batch, False)
    monkeypatch.setattr(update, "lay_out", lay_out_as)
    a, x = gradient(network, batch, True)
    assert a == pytest.approx(b, abs=1e-5) and torch.allclose(x, y, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_tree_of_sequences_gives_the_same_numbers(data):
    rows = []
    for group in range(data.draw(st.integers(1, 3))):
        stem = data.draw(st.lists(st.integers(3, 9), min_size=1, max_size=12))
        for _ in range(data.draw(st.integers(1, 4))):
            cut = data.draw(st.integers(0, len(stem)))
            tail = data.draw(st.lists(st.integers(3, 9), min_size=2, max_size=8))
            rows.append((group, stem[:cut] + tail, data.draw(st.integers(1, len(tail) - 1))))
    batch = make_batch(episodes_of(rows), [1.0] * len(rows), "token")
    network, lay_out_as = model(3), data.draw(st.sampled_from([lay_out, hanging, alike]))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        b = forward(network, batch, values=True, share=False)
        patch.setattr(update, "lay_out", lay_out_as)
        a = forward(network, batch, values=True)
    for name in ("logp_N", "entropy_N", "q_N", "v_N"):
        assert torch.allclose(getattr(a, name), getattr(b, name), atol=1e-5), name
    n = sum(m for _, ids, m in rows)
    assert len(sampled(batch)) == n


def test_what_the_trainer_says_is_what_the_engine_sampled(desk_group):
    batch = make_batch(desk_group, [1.0] * len(desk_group), "token")
    assert ((score(model(), batch) - batch.behaviour_logp_N) * batch.mask_N).abs().max() < 2e-4
    critic = Critic(model())
    torch.nn.init.normal_(critic.head.head.weight)
    value = critic.score(batch)
    assert value[batch.mask_N == 0].abs().max() == 0 and value[batch.mask_N > 0].abs().min() > 0


def test_a_row_is_closed_before_it_grows_beyond_its_size(monkeypatch):
    monkeypatch.setattr(packing, "TREE", 40)
    monkeypatch.setattr(packing, "ROWS", (40,))
    rows = [(g, [3 + g] * 10 + [k + 3] * 9, 9) for g in range(4) for k in range(4)]
    batch = make_batch(episodes_of(rows), [1.0] * len(rows), "token")
    assert lay_out(batch, wide=1e6).rows[0].ids_RT.shape[1] <= 40
    network = model(3)
    with torch.no_grad():
        assert torch.allclose(forward(network, batch).logp_N, forward(network, batch, share=False).logp_N, atol=1e-5)


def test_rows_that_would_need_too_large_a_mask_are_padded_ones(desk_group, monkeypatch):
    """At long contexts a mask of every pair of positions would not fit; without one, none is made, nor by the model."""
    batch = make_batch(desk_group, [1.0] * len(desk_group), "token")
    assert lay_out(batch, wide=1e6).rows[0].sees_RTT is not None
    monkeypatch.setattr(packing, "MASK", 1000)
    found = lay_out(batch, wide=1e6)
    assert found.stem_GP is None and all(r.sees_RTT is None and (r.position_RT.diff(dim=1) == 1).all() for r in found.rows)


def test_a_stem_is_what_all_of_a_group_begin_with():
    """The first two share nothing, the first and the third three tokens: there is no stem."""
    rows = [(0, [3, 4, 5, 6], 2), (0, [7, 8, 9, 5], 2), (0, [3, 4, 5, 9], 2)]
    batch = make_batch(episodes_of(rows), [1.0] * 3, "token")
    assert packing._stems(batch, packing.segments(batch)) == {0: 0}
    both = make_batch(episodes_of([rows[0], rows[2]]), [1.0] * 2, "token")
    assert packing._stems(both, packing.segments(both)) == {0: 3}
