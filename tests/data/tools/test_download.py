"""Fetching archives, from a server on this machine: whole, or one sentence."""

import pytest
from archive_server import IMAGES, LABELS, WHOLE, contents

from agvm_jax.data.annotations.errors import DataError
from agvm_jax.data.tools import download


def test_archives_are_fetched_checked_and_unpacked(fetch, tmp_path, server):
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert sorted(server.asked) == ["/images.zip", "/labels.zip"]
    # Neither archives nor anything half done is left behind.
    assert [p.name for p in (tmp_path / "set").glob(".*")] == [".download.lock"]


def test_what_is_there_is_not_fetched_again(fetch, tmp_path, server):
    fetch()
    (tmp_path / "set" / "notes" / "train.json").unlink()
    server.asked.clear()
    fetch()
    assert server.asked == ["/labels.zip"] and contents(tmp_path / "set") == WHOLE
    fetch()
    assert server.asked == ["/labels.zip"]


def test_archives_are_kept_when_asked_for(fetch, tmp_path, server):
    fetch(keep_archives=True)
    kept = {p.read_bytes() for p in (tmp_path / "set" / ".downloads").glob("*.zip")}
    assert kept == {IMAGES, LABELS}
    (tmp_path / "set" / "notes" / "train.json").unlink()
    fetch(keep_archives=True)
    assert len(server.asked) == 2 and contents(tmp_path / "set") == WHOLE


def test_a_wrong_checksum_is_one_sentence_and_nothing_is_used(fetch, tmp_path, server):
    server.files["/images.zip"] = IMAGES[:-1] + b"x"
    with pytest.raises(DataError, match="images.zip is not the file that it should be"):
        fetch()
    assert not (tmp_path / "set" / "train").exists()
    assert not list((tmp_path / "set" / ".downloads").glob("*images*"))
    server.files["/images.zip"] = IMAGES
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert server.asked.count("/labels.zip") == 1


def test_a_connection_that_breaks_is_one_sentence_and_the_next_run_goes_on(
    fetch, tmp_path, server
):
    server.cut.add("/images.zip")
    with pytest.raises(DataError, match="images.zip (could not be|is not the file)"):
        fetch()
    assert not (tmp_path / "set" / "train").exists()
    assert not list((tmp_path / "set" / ".downloads").glob("*images*"))
    server.cut.clear()
    fetch()
    assert contents(tmp_path / "set") == WHOLE
    assert server.asked.count("/labels.zip") == 1


def test_a_url_that_is_not_there_names_the_other_way(fetch, server):
    del server.files["/labels.zip"]
    with pytest.raises(
        DataError, match="labels.zip could not be fetched .*404.*manual"
    ):
        fetch()


def test_archives_of_a_manual_folder_are_checked_used_and_left_alone(
    fetch, tmp_path, server
):
    manual = tmp_path / "by hand"
    manual.mkdir()
    with pytest.raises(DataError, match="none of labels.zip, images.zip in .*by hand"):
        fetch(manual=manual)
    (manual / "images.zip").write_bytes(IMAGES[:-5])
    with pytest.raises(DataError, match="by hand/images.zip is not the file"):
        fetch(manual=manual)
    (manual / "images.zip").write_bytes(IMAGES)
    server.asked.clear()
    fetch(manual=manual)
    assert contents(tmp_path / "set") == WHOLE
    assert "/images.zip" not in server.asked
    assert (manual / "images.zip").read_bytes() == IMAGES


def test_the_command_says_what_to_do_next_or_what_is_wrong(
    fetch, tmp_path, monkeypatch, capsys
):
    done = []
    monkeypatch.setattr(download, "download", lambda *a, **k: done.append((a, k)))
    assert download.main(["coco", "here", "--panoptic"]) == 0
    assert "--config.data.name=coco --config.data.root=here" in capsys.readouterr().out
    (found, folder), options = done[0]
    assert len(found) == 4 and folder == "here" and options["manual"] is None

    def refuse(*_, **__):
        raise DataError("no room")

    monkeypatch.setattr(download, "download", refuse)
    assert download.main(["ade20k", "here"]) == 2
    assert capsys.readouterr().err == "error: no room\n"
    with pytest.raises(SystemExit):
        download.main(["ade20k", "here", "--panoptic"])
