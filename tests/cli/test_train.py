"""What `train` hands on before anything is loaded."""

from small_checkpoint import CONFIG, call

from editr2_jax.runtime import hosts


def test_where_threads_hang_is_written_down_from_the_first_start_on(tmp_path, monkeypatch):
    """A workdir that is still to be made, on a disk; an address is none."""
    given = []

    def joined(config, **more):
        given.append(more["stacks"])
        raise ValueError("enough.")

    monkeypatch.setattr(hosts, "joined", joined)
    for workdir in (tmp_path / "new", "gs://bucket/run"):
        call("train", f"--config={CONFIG}", f"--workdir={workdir}")
    assert given == [tmp_path / "new", None] and not (tmp_path / "new").exists()
