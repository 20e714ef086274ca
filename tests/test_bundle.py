"""A bundle is what it says, or it is refused with the file and the reason."""

import shutil
import stat
import struct
import zipfile

import anyio
import msgspec
import pytest

from agentgym.cli.main import guarded
from agentgym.errors import BundleError, RecordError, UsageError
from agentgym.evaluation import bundle
from agentgym.evaluation.bundle import check, opened, pack, seal
from agentgym.evaluation.regrade import replay, verify
from agentgym.evaluation.run import Plan, evaluate
from agentgym.policies import resolve


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("bundle") / "run"
    anyio.run(evaluate, Plan(env="tools/desk", split="test", tasks=4, reward="gated"), resolve("oracle"), out)
    return out


@pytest.fixture
def copy(run, tmp_path):
    return shutil.copytree(run, tmp_path / "run")


def test_a_run_is_sealed_with_every_file_in_it(run):
    assert check(run)
    names = set(msgspec.json.decode((run / bundle.SEAL).read_bytes())["files"])
    assert names >= {"config.toml", "reward.toml", "provenance.json", "episodes.jsonl", "result.json"} and len(names) > 8
    about = msgspec.json.decode((run / "provenance.json").read_bytes())[-1]
    assert about["packages"]["agentgym-core"] and about["platform"] and about["policy"] == "oracle"


def test_a_packed_run_is_one_file_the_same_each_time_and_verifies_and_replays(run, tmp_path):
    pack(run, tmp_path / "a.zip")
    pack(run, tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with opened(tmp_path / "a.zip") as folder:
        assert verify(folder).reproduced == 4 and replay(folder).identical == 4
    assert not folder.exists()


def flip(folder):
    path = folder / "result.json"
    data = bytearray(path.read_bytes())
    data[10] ^= 1
    path.write_bytes(data)
    return "result.json", "was changed"


def remove(folder):
    path = next(p for p in sorted((folder / "artefacts").rglob("*")) if p.is_file())
    path.unlink()
    return path.name, "is missing"


def link(folder):
    (folder / "link").symlink_to("/etc/passwd")
    return "link", "is a link"


def future(folder):
    path = folder / bundle.SEAL
    path.write_bytes(path.read_bytes().replace(b'"schema": 1', b'"schema": 99'))
    return bundle.SEAL, "schema 99"


def garbage(folder):
    (folder / bundle.SEAL).write_bytes(b"{")
    return bundle.SEAL, "is no seal"


@pytest.mark.parametrize("harm", [flip, remove, link, future, garbage])
def test_a_changed_bundle_is_refused_with_file_and_reason(copy, harm, tmp_path):
    file, why = harm(copy)
    with pytest.raises(BundleError, match=why) as caught, opened(copy):
        pass
    assert file in caught.value.file or file in str(caught.value)
    assert guarded(["verify", str(copy)]) == 1


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "C:\\evil", "a\\b"])
def test_names_that_lead_out_are_refused_before_anything_is_written(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as file:
        file.writestr("episodes.jsonl", "")
        file.writestr(zipfile.ZipInfo(name), "x")
    with pytest.raises(BundleError, match="leads out"):
        bundle.unpack(tmp_path / "x.zip", tmp_path / "to")
    assert not (tmp_path / "to").exists() and not (tmp_path / "evil").exists()


def test_a_bomb_a_link_and_a_double_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("episodes.jsonl", b"\0" * (64 << 20))
    with pytest.raises(BundleError, match="unpacks to 67108864 bytes"):
        bundle.unpack(tmp_path / "bomb.zip", tmp_path / "a")
    entry = zipfile.ZipInfo("link")
    entry.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "link.zip", "w") as file:
        file.writestr(entry, "/etc/passwd")
    with pytest.raises(BundleError, match="not a regular file"):
        bundle.unpack(tmp_path / "link.zip", tmp_path / "b")
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as file, pytest.warns(UserWarning):
        file.writestr("a", "1")
        file.writestr("a", "2")
    with pytest.raises(BundleError, match="occurs twice"):
        bundle.unpack(tmp_path / "twice.zip", tmp_path / "c")


def test_a_file_that_is_longer_than_it_says_is_refused(run, tmp_path):
    pack(run, tmp_path / "a.zip")
    data = bytearray((tmp_path / "a.zip").read_bytes())
    at = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 3)
    (tmp_path / "a.zip").write_bytes(data)
    with pytest.raises(BundleError), opened(tmp_path / "a.zip"):
        pass


def test_a_flipped_byte_in_a_packed_run_is_refused(run, tmp_path):
    pack(run, tmp_path / "a.zip")
    data = (tmp_path / "a.zip").read_bytes()
    for at in range(40, len(data), len(data) // 25):
        (tmp_path / "b.zip").write_bytes(data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :])
        try:
            with opened(tmp_path / "b.zip") as folder:
                assert check(folder) and verify(folder).reproduced == 4
        except RecordError:
            continue


def test_a_file_beside_a_run_is_no_part_of_it_but_one_in_a_packed_run_is_refused(copy, tmp_path):
    (copy / "notes.txt").write_text("mine")
    with opened(copy) as folder:
        assert verify(folder).reproduced == 4
    (copy / "notes.txt").unlink()
    pack(copy, tmp_path / "a.zip")
    with zipfile.ZipFile(tmp_path / "a.zip", "a") as file:
        file.writestr("extra.txt", "x")
    with pytest.raises(BundleError, match=r"extra\.txt is not listed"), opened(tmp_path / "a.zip"):
        pass


def test_what_is_no_bundle_is_said_so(tmp_path):
    (tmp_path / "x.zip").write_text("no zip")
    with pytest.raises(BundleError, match="is no zip"), opened(tmp_path / "x.zip"):
        pass
    for path in (tmp_path / "nothing", tmp_path):
        with pytest.raises(UsageError, match="not a run folder"), opened(path):
            pass
    with zipfile.ZipFile(tmp_path / "unsealed.zip", "w") as file:
        file.writestr("episodes.jsonl", "")
    with pytest.raises(BundleError, match=r"bundle\.json is missing"), opened(tmp_path / "unsealed.zip"):
        pass


def test_a_newer_record_is_refused(copy):
    path = copy / "episodes.jsonl"
    lines = path.read_bytes().splitlines()
    path.write_bytes(lines[0].replace(b'"schema":1', b'"schema":7') + b"\n" if b'"schema":1' in lines[0] else lines[0][:-1] + b',"schema":7}\n')
    seal(copy)
    with opened(copy) as folder, pytest.raises(RecordError, match="schema 7"):
        verify(folder)


def test_a_run_that_goes_on_is_sealed_anew(run, tmp_path):
    out = shutil.copytree(run, tmp_path / "again")
    lines = (out / "episodes.jsonl").read_bytes().splitlines(keepends=True)
    (out / "episodes.jsonl").write_bytes(b"".join(lines[:2]) + lines[2][:50])
    with pytest.raises(BundleError, match="was changed"):
        anyio.run(evaluate, Plan(env="tools/desk", split="test", tasks=4, reward="gated"), resolve("oracle"), out)
    bundle.unseal(out)  # as a run that was killed leaves it
    result = anyio.run(evaluate, Plan(env="tools/desk", split="test", tasks=4, reward="gated"), resolve("oracle"), out)
    assert result.valid == 4 and check(out) and verify(out).reproduced == 4
    whole, again = (msgspec.json.decode((f / "result.json").read_bytes()) for f in (run, out))
    different = {k for k in whole if whole[k] != again[k]}
    assert different <= {"wall_s", "out"}
