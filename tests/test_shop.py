"""A shop in a real Chromium: its database decides, whatever the page shows; snapshots, tabs, files, questions, and another layout."""

import asyncio
import re
import subprocess
import sys
import threading

import pytest
from agentgym_verifiers.rules.match import same
from agentgym_web.browser import host
from agentgym_web.shop.tasks import TEMPLATES
from agentgym_web.shop.world import World

import agentgym
from agentgym.checks.report import audit
from agentgym.checks.subject import Subject
from agentgym.errors import CapabilityError, UnknownName
from agentgym.registry import spec


@pytest.fixture(scope="module")
def env():
    made = agentgym.make("web/shop", reward="stepwise")
    yield made
    made.close()


def begin(env, template, n=0, split="train"):
    return env.reset(options={"task": f"{template}.{split}.{n}"})[0]


def element(env, role, name):
    found = re.search(rf'\[(\d+)\] {role} "{re.escape(name)}', env._seen["seen"])
    assert found, (role, name, env._seen["seen"])
    return found[1]


def play(env):
    for action in env.oracle():
        result = env.step(action)
    return result


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.extra)])
def test_at_least_forty_templates_of_five_kinds_and_their_ways_lead_there_in_another_layout_too(every):
    kinds = {kind for kind, _ in TEMPLATES.values()}
    assert len(TEMPLATES) >= 40 and kinds == {"find", "buy", "account", "compare", "admin"}
    names = list(TEMPLATES)
    for layout, chosen in (("plain", names[::every]), ("perturbed", names[1 :: 3 * every])):
        env = agentgym.make("web/shop", layout=layout)
        lost = []
        for name in chosen:
            begin(env, name, 5)
            play(env)
            lost += [] if env.episode.success else [(name, env.task.instruction, env.episode.verdicts["task"].evidence)]
        env.close()
        assert not lost, layout


def test_the_same_shop_in_another_layout_has_other_words_and_the_same_verdict():
    seen = {}
    for layout in ("plain", "renamed", "moved", "themed"):
        env = agentgym.make("web/shop", layout=layout, render_mode="rgb_array")
        begin(env, "buy-gift")
        picture = env.render().mean()
        play(env)
        seen[layout] = (env.episode.success, env.artefacts["changes.json"], env.episode.start_anchor, picture)
        env.close()
    assert len({(s, a) for s, a, *_ in seen.values()}) == 1 and all(s for s, *_ in seen.values())
    assert "Basket" in seen["renamed"][2] and "Basket" not in seen["plain"][2]
    assert sorted(seen["moved"][2].split("\n")[1:]) != seen["moved"][2].split("\n")[1:] and seen["moved"][2] != seen["plain"][2]
    assert seen["themed"][2] == seen["plain"][2] and seen["themed"][3] < seen["plain"][3] - 60
    with pytest.raises(UnknownName, match="themed"):
        agentgym.make("web/shop", layout="theme")


def test_what_the_page_shows_does_not_count_and_neither_does_more_than_was_asked(env):
    begin(env, "phone")
    host().run(env.session.page.evaluate("() => { document.body.innerHTML = '<h1>Saved: the phone number was changed. Task solved.</h1>' }"), 10)
    env.step("answer done")
    assert not env.episode.success
    begin(env, "phone")
    way = list(env.task.data["way"])
    new = next(given[1] for verb, *given in way if verb == "fill")
    env.step("goto /account")
    env.step(f"fill {element(env, 'textbox', 'Phone')} {new}")
    env.step(f"fill {element(env, 'textbox', 'Name')} Somebody Else")
    env.step(f"click {element(env, 'button', 'Update profile')}")
    env.step("answer done")
    assert not env.episode.success and env.episode.verdicts["task"].evidence["wrong"] == ["customers"]


def test_an_answer_is_the_number_or_the_text_and_not_one_of_many():
    for said in ("12.5", "$12.50", "12.50 dollars"):
        assert same(12.5, said)
    for said in ("12.5 or 13", "Verdict: 12.5", "about", "1 2 3 12.5", ""):
        assert not same(12.5, said)
    assert same("Alder kettle 12", "alder Kettle 12.") and not same("Alder kettle 12", "Alder kettle 12 or Birke kettle 13")


def test_nobody_acts_for_another_customer_or_for_the_shop(env):
    begin(env, "price")
    assert "for its own people" in env.step("goto /admin/orders")[0]
    other = env.world.db.execute("SELECT id FROM orders WHERE customer != 1").fetchone()[0]
    assert "no such thing" in env.step(f"goto /orders/{other}")[0]
    sent = "() => fetch('/admin/coupons', { method: 'POST', body: new URLSearchParams({ code: 'FREE', percent: 90 }) }).then(() => 1)"
    host().run(env.session.page.evaluate(sent), 10)
    assert env.world.changes() == {}


def test_a_question_of_the_page_waits_and_is_dismissed_by_anything_else(env):
    begin(env, "drop-address")
    env.step("goto /account/addresses")
    button = element(env, "button", "Delete")
    seen = env.step(f"click {button}")[0]
    assert "The page asks (confirm): Delete the address" in seen and env.world.changes() == {}
    assert "dismissed" in env.step("goto /cart")[0] and env.world.changes() == {}
    assert "asks nothing" in env.step("dialog true")[0]
    env.step("goto /account/addresses")
    env.step(f"click {element(env, 'button', 'Delete')}")
    with pytest.raises(CapabilityError, match="answer it first"):
        env.snapshot()
    env.step("dialog true")
    assert "addresses" in env.world.changes()


def test_tabs_frames_shadow_roots_downloads_and_uploads(env):
    begin(env, "invoice")
    product = env.step("goto /product/5")[0]
    assert "Goods of the department" in product and "frame" in product
    seen = env.step(f"click {element(env, 'link', 'Care instructions')}")[0]
    assert "tab 2 was opened" in seen
    assert "degrees" in env.step("tab_switch 2")[0] and "Tab 2 of 2" in env._where()
    assert "no tab 7" in env.step("tab_switch 7")[0]
    env.step("goto /product/5/review")
    env.step(f"click {element(env, 'button', '4 stars')}")
    assert host().run(env.session.page.evaluate("document.querySelector('star-rating input').value"), 5) == "4"
    order = env.world.db.execute("SELECT id FROM orders WHERE customer = 1").fetchone()[0]
    env.step(f"goto /orders/{order}")
    seen = env.step(f"click {element(env, 'link', 'Download invoice')}")[0]
    assert f"downloaded invoice-{order}.csv" in seen and "REF-" in seen
    begin(env, "import-stock")
    env.step("goto /admin/products")
    field = element(env, "file", "Stock file")
    assert "there are stock.csv" in env.step(f"upload {field} other.csv")[0]
    assert '"stock.csv"' in env.step(f"upload {field} stock.csv")[0]


def test_only_the_sites_own_addresses_are_opened(env):
    begin(env, "price")
    for address in ("http://example.com/", "file:///etc/passwd", "chrome://version", "http://miniwob.test/miniwob/click-test.html"):
        seen = env.step(f"goto {address}")[0]
        assert "can be opened" in seen and "refused" in seen
        if env.episode.stop_reason is not None:
            begin(env, "price")
    assert "no page before" in env.step("back")[0]
    script = "() => fetch('http://miniwob.test/miniwob/click-test.html').then(() => 'reached', () => 'refused')"
    assert host().run(env.session.page.evaluate(script), 10) == "refused"


def test_a_snapshot_is_the_database_the_cookies_and_every_tab(env):
    begin(env, "buy-two")
    env.step("goto /product/7")
    env.step(f"click {element(env, 'button', 'Add to cart')}")
    env.step("tab_new /account")
    env.step(f"fill {element(env, 'textbox', 'Phone')} 555 0000")
    state, saved = env._state, env.snapshot()
    there = env.fork(1)[0]
    assert there._state == state
    for each in (env, there):
        each.step(f"click {element(each, 'button', 'Update profile')}")
    assert env._state == there._state and env.world is not there.world
    env.step("goto /cart")
    env.step(f"click {element(env, 'button', 'Remove')}")
    assert env.world.changes() != there.world.changes()
    there.close()
    env.restore(saved)
    assert env._state == state and "555 0000" not in str(env.world.changes())


def test_a_huge_download_is_given_up_and_a_page_that_never_settles_is_read_as_it_is(env, monkeypatch):
    from agentgym_web import session as module
    from starlette.responses import StreamingResponse
    from starlette.routing import Route

    async def huge(request):
        async def chunks():
            for _ in range(1_000):
                yield b"x" * 1_000_000
                await asyncio.sleep(0.001)

        return StreamingResponse(chunks(), headers={"content-disposition": "attachment; filename=huge.bin"})

    begin(env, "price")
    site = host().sites.apps["shop.test"]
    site.router.routes.insert(0, Route("/huge", huge))
    try:
        assert "huge.bin was given up" in env.step("goto /huge")[0]
    finally:
        del site.router.routes[0]
    monkeypatch.setattr(module, "PATIENCE", 0.5)
    host().run(
        env.session.page.evaluate(
            "() => { window.fetch('/huge-wait'); const e = document.createElement('img'); e.src = '/'; setInterval(() => { document.title += '.' }, 1) }"
        ),
        5,
    )
    assert "Search" in env.step("hover 1")[0]


def test_many_at_once_in_threads_and_inside_a_running_loop():
    lost, jobs, lock = [], [f"{name}.train.2" for name in list(TEMPLATES)[:32]], threading.Lock()

    def work():
        env = agentgym.make("web/shop")
        while True:
            with lock:
                if not jobs:
                    break
                task = jobs.pop()
            env.reset(options={"task": task})
            play(env)
            lost.extend([] if env.episode.success else [task])
        env.close()

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not lost

    async def inside():
        env = agentgym.make("web/shop")
        begin(env, "wish")
        play(env)
        env.close()
        return env.episode.success

    assert asyncio.run(inside())


def test_pictures_with_numbers(env):
    plain, marked = agentgym.make("web/shop", screenshot=True), agentgym.make("web/shop", marks=True)
    first, second = (e.reset(options={"task": "price.train.0"})[0] for e in (plain, marked))
    assert first["screenshot"].shape == second["screenshot"].shape == (768, 1024, 3)
    assert (first["screenshot"] != second["screenshot"]).mean() > 0.005
    dom = agentgym.make("web/shop", observe="dom")
    assert "<button" in begin(dom, "price")
    for each in (plain, marked, dom):
        each.close()


def test_roles_and_names_are_those_of_the_browsers_own_accessibility_tree(env):
    begin(env, "buy-one")
    env.step("goto /account")

    async def tree():
        session = await env.session.lease.context.new_cdp_session(env.session.page)
        return (await session.send("Accessibility.getFullAXTree"))["nodes"]

    wanted = {"button", "link", "textbox", "searchbox", "checkbox", "heading"}
    nodes = host().run(tree(), 10)
    theirs = sorted((n["role"]["value"], n["name"]["value"]) for n in nodes if n.get("role", {}).get("value") in wanted and not n.get("ignored"))
    ours = sorted((m[1], m[2]) for m in re.finditer(r'\[\d+\] (\w+) "([^"]*)"', env._seen["seen"]) if m[1] in wanted)
    assert ours == theirs


def test_check_passes():
    report = audit(Subject(spec("web/shop-v0"), 1, {}))
    assert not [c for c in report.checks if c.status == "fail"] and report.oracle.success == 1.0


def test_a_browser_whose_gym_is_gone_is_found_by_clean():
    owner = "--agentgym-owner=" + subprocess.run(["hostname"], capture_output=True, text=True).stdout.strip() + ":999999:gone"
    left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", owner])
    try:
        done = subprocess.run([sys.executable, "-m", "agentgym", "clean", "--plain"], capture_output=True, text=True)
        assert f"process {left.pid}" in done.stdout and left.wait(10) == -9
    finally:
        left.kill()


def test_a_world_is_made_quickly_and_alike():
    assert World(3, "plain").artefact() == b"{}" and World(3, "plain").db.serialize() == World(3, "moved").db.serialize()
