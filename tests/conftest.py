"""What all tests share: cheap compilation, a cache of it, strict promotion, and reproducible hypothesis profiles."""

import contextlib
import gc
import os
import pathlib
from collections.abc import Iterator

import jax
import pytest
from hypothesis import HealthCheck, settings

jax.config.update("jax_compilation_cache_dir", str(pathlib.Path(__file__).parent.parent / ".jax_cache"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Compiling takes most of the time, for programs that run for microseconds. What LLVM leaves out here changes no law.
# Whoever sets the variable, as `.ci/oldest` does, decides for all tests.
CHEAP = "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ
if CHEAP:
    jax.config.update("jax_disable_most_optimizations", True)
cheap = [CHEAP]  # how programs are compiled now, last
OPTIMIZED = (  # modules that read compiled programs, or run them for long
    *("benchmarks", "demo", "record/test_rollout", "samplers/test_sum_tree", "samplers/test_uniform"),
    *("test_check_in_place", "test_closing", "test_in_place", "test_order", "test_programs", "test_readme"),
    *("test_sampling", "test_strictness", "views/test_episode"),
)

MAPPINGS = pathlib.Path("/proc/self/maps")  # on Linux, which allows 65,530; a compiled program takes several
MANY_MAPPINGS = 20_000
STANDARD = ("benchmarks", "demo", "docs")  # these run optax and other libraries that strict promotion stops

short = settings(max_examples=25, derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile("short", short)
settings.register_profile("long", short, max_examples=600, derandomize=False)
settings.load_profile("short")


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Iterator[None]:
    """Drop compiled programs before a process has too many memory mappings: the compiler crashes where none is left."""
    yield
    if MAPPINGS.exists() and len(MAPPINGS.read_bytes().splitlines()) > MANY_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(autouse=True, scope="module")
def _optimized_modules(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile as users do where programs are read or run for long, also in what the tests of a module share."""
    with _optimized(CHEAP and request.node.nodeid.removeprefix("tests/").startswith(OPTIMIZED)):
        yield


@pytest.fixture(autouse=True)
def _optimized_tests(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compile as users do where a test asks for it."""
    with _optimized(CHEAP and any(request.node.get_closest_marker(name) for name in ("compiler", "optimized", "slow"))):
        yield


@contextlib.contextmanager
def _optimized(wanted: bool) -> Iterator[None]:
    """Compile as users do for a while, if that is wanted and not so already."""
    if not (wanted and cheap[-1]):
        yield
        return
    cheap.append(False)
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    cheap.pop()
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(autouse=True)
def _strict_promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    """Hold the laws under what whole labs set; what works here works by default too (`test_strictness.py`)."""
    if request.node.nodeid.removeprefix("tests/").startswith(STANDARD):
        yield
    else:
        with jax.numpy_rank_promotion("raise"), jax.numpy_dtype_promotion("strict"):
            yield


@pytest.fixture
def standard_promotion() -> Iterator[None]:
    """For libraries that do not work under strict promotion, as optax and Gymnasium's functional environments."""
    with jax.numpy_rank_promotion("allow"), jax.numpy_dtype_promotion("standard"):
        yield
