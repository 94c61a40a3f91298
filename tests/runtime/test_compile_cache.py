"""The cache of compiled programs: counts, copies that are whole, and warnings about what is compiled again."""

import subprocess
import sys
import textwrap

import jax
import pytest

from editr2_jax.runtime import compile_cache
from editr2_jax.runtime.compile_cache import CompileCache, CompileCacheConfig, Compiling

HIT, ASKED = "/jax/compilation_cache/cache_hits", "/jax/compilation_cache/compile_requests_use_cache"
READ, COMPILED = "/jax/compilation_cache/cache_retrieval_time_sec", "/jax/core/compile/backend_compile_duration"


def compile_one(compiling, name, seconds, *, hit=False):
    compiling.on_event(ASKED)
    if hit:
        compiling.on_event(HIT)
        compiling.on_duration(READ, seconds)
    compiling.on_duration(COMPILED, seconds, fun_name=name)


def test_hits_misses_and_seconds():
    compiling = Compiling()
    compile_one(compiling, "update", 12.0)
    compile_one(compiling, "denoise", 0.5, hit=True)
    compiling.on_event("/jax/something/else")
    compiling.on_duration("/jax/core/compile/jaxpr_trace_duration", 100.0, fun_name="update")
    assert compiling.line() == "compile cache: 1 hits, 1 misses, 12.0 s compiling"
    assert compiling.metrics() == {"compile/hits": 1.0, "compile/misses": 1.0, "compile/seconds": 12.0}


def test_without_a_cache_the_seconds_are_still_told():
    compiling = Compiling()
    compiling.on_duration(COMPILED, 3.0, fun_name="update")
    assert compiling.line() == "compile cache: off, 3.0 s compiling"


def test_what_is_compiled_again_is_named_once():
    compiling = Compiling()
    compile_one(compiling, "update", 5.0)
    compile_one(compiling, "update", 5.0)  # two shapes from the start
    compiling.settled()
    compile_one(compiling, "evaluate", 9.0)  # for the first time
    compile_one(compiling, "update", 0.1)  # found in the cache, or tiny
    assert compiling.again() == ""
    compile_one(compiling, "update", 5.0)
    compile_one(compiling, "update", 2.0)
    assert "update (7.0 s)" in compiling.again()
    assert compiling.again() == ""


def folders(tmp_path, monkeypatch):
    """A cache over tmp_path, jax left alone; (cache, its folder, its shared folder, what it said)."""
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    said = []
    cache = CompileCache(CompileCacheConfig(folder=str(tmp_path / "here"), shared=str(tmp_path / "all")), say=said.append)
    return cache, cache.folder, tmp_path / "all" / cache.folder.name, said


def test_new_entries_travel_and_nothing_else(tmp_path, monkeypatch):
    cache, here, shared, said = folders(tmp_path, monkeypatch)
    assert cache.fetch() == 0  # there is nothing yet
    for name, text in (("a-cache", "a"), ("a-atime", "1"), ("b-cache", "b"), (".c-cache.12", "torn")):
        (here / name).write_text(text)
    assert cache.publish() == 2 and cache.publish() == 0
    assert sorted(path.name for path in shared.iterdir()) == ["a-cache", "b-cache"]
    (here / "a-cache").unlink()
    (shared / "b-cache").write_text("another")
    assert cache.fetch() == 1
    assert ((here / "a-cache").read_text(), (here / "b-cache").read_text()) == ("a", "b") and not said


def test_only_process_0_publishes(tmp_path, monkeypatch):
    cache, here, shared, _ = folders(tmp_path, monkeypatch)
    (here / "a-cache").write_text("a")
    monkeypatch.setattr(jax, "process_index", lambda: 3)
    assert cache.publish() == 0 and not shared.exists()


def test_a_copy_that_fails_is_told_and_leaves_no_half_entry(tmp_path, monkeypatch):
    cache, here, shared, said = folders(tmp_path, monkeypatch)
    (here / "a-cache").mkdir()  # cannot be read as a file
    assert cache.publish() == 0 and not list(shared.iterdir())
    assert "the run goes on" in said[0]


def test_settings_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="compile_cache.shared"):
        CompileCacheConfig(folder="gs://bucket/cache")
    with pytest.raises(ValueError, match="local folder"):
        CompileCacheConfig(shared="gs://bucket/cache")


@pytest.mark.slow
def test_a_second_process_on_another_machine_finds_what_the_first_compiled(tmp_path):
    """Two processes with a folder of their own each and one shared; jax has compiled something before the cache is set up."""
    script = textwrap.dedent("""
        import sys
        import jax, jax.numpy as jnp
        from editr2_jax.runtime import compile_cache
        from editr2_jax.runtime.compile_cache import CompileCache, CompileCacheConfig
        jax.jit(lambda x: x + 1)(0)
        with compile_cache.counted() as compiling:
            cache = CompileCache(CompileCacheConfig(folder=sys.argv[1], shared=sys.argv[2], min_seconds=0.0))
            fetched = cache.fetch()
            def work(x):
                return jnp.sin(x) @ x
            jax.jit(work)(jnp.ones((8, 8))).block_until_ready()
            print(fetched > 0, compiling.hits > 0, compiling.misses > 0, cache.publish() > 0, compiling.line())
    """)
    told = [
        subprocess.run([sys.executable, "-c", script, tmp_path / name, tmp_path / "all"], capture_output=True, text=True, check=True).stdout
        for name in ("first", "second")
    ]
    assert told[0].startswith("False False True True compile cache: 0 hits, ")
    assert told[1].startswith("True True False False compile cache: ") and " 0 misses, 0.0 s compiling" in told[1]


def test_jax_tells_what_it_compiles_under_these_names():
    with compile_cache.counted() as compiling:
        jax.jit(lambda x: x * 17.25 + 3)(2.0)
        assert compiling.seconds + compiling.hits > 0 and any(compiling._known)
    before = compiling.seconds
    jax.jit(lambda x: x * 18.25 + 3)(2.0)
    assert compiling.seconds == before
