"""A token in a directory of its own, for the whole run. No test touches the user's data.

With CONCLAVE_TEST_FLEET=sqlite or =postgres the tokens are those of fleets (fleet.py): the same tests, but for those
that are marked `embedded`, with a reason.
"""

import os
import pathlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass

import pytest

import cryptoki
import fleet

ROOT = pathlib.Path(__file__).parent.parent
MODULE = pathlib.Path(os.environ.get("CONCLAVE_MODULE", ROOT / "target/release/libconclave.so")).resolve()
SO_PIN = "12345678"
PIN = "9876-user"
FLEET = os.environ.get("CONCLAVE_TEST_FLEET")

# Before anything loads the module. HOME changes too, and cargo (see vectors.py) must not notice.
os.environ.setdefault("CARGO_HOME", os.path.expanduser("~/.cargo"))
os.environ.setdefault("RUSTUP_HOME", os.path.expanduser("~/.rustup"))
_home = tempfile.mkdtemp(prefix="conclave-test-")
os.environ.update({
    "CONCLAVE_HOME": f"{_home}/data",
    "CONCLAVE_CONF": f"{_home}/conclave.toml",
    "SOFTHSM2_CONF": f"{_home}/softhsm2.conf",
    "HOME": _home,
    "XDG_DATA_HOME": f"{_home}/xdg-data",
    "XDG_CONFIG_HOME": f"{_home}/xdg-config",
    "LC_ALL": "C.UTF-8",
})
pathlib.Path(_home, "data").mkdir(mode=0o700)
pathlib.Path(_home, "conclave.toml").write_text("")
pathlib.Path(_home, "softhsm2.conf").write_text(f"directories.tokendir = {_home}/data\nlog.level = ERROR\n")


FLEETS = None
if FLEET:
    # An address in PostgreSQL costs a look whenever slots are listed, also while it is unused. GnuTLS looks at
    # 48 slots at most, one of them that of the next embedded token.
    FLEETS = (fleet.Pool(f"{_home}/fleets", 16, fleet.Postgres()) if FLEET == "postgres" else
              fleet.Pool(f"{_home}/fleets", 46, hsms=2))
    pathlib.Path(_home, "conclave.toml").write_text(FLEETS.entries())

    def _make_token(_module, label, so_pin, user_pin):
        return FLEETS.make(label, so_pin.decode(), user_pin.decode())

    cryptoki.Module.make_token = _make_token


def pytest_configure(config):
    config.addinivalue_line("markers", "embedded(reason): is about embedded tokens; not run over a fleet")
    config.addinivalue_line("markers", "one_store(reason): over a fleet with SQLite only")


# Whole modules are dealt out to processes that run side by side (scripts/python-tests.sh). Other programs
# come first, before there are many tokens: GnuTLS looks at 48 slots at most. Then those that take longest,
# so that all processes end at about the same time.
FIRST = ("tools", "fleet_faults", "fleet_proxy", "fleet_regions", "replication_faults", "replication_hostile", "region_cli",
         "fleet_recovery", "readme", "domain_refusals", "domain_cli", "key_cli", "managed_states", "operator_cli")


def pytest_collection_modifyitems(items):
    rank = {f"test_{name}.py": at for at, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
    if FLEET:
        # What makes no token by these fixtures is the same either way.
        items[:] = [item for item in items
                    if {"module", "token", "own_fleet", "regions_of"} & set(item.fixturenames)]
    for item in items:
        mark = item.get_closest_marker("embedded")
        if FLEET and mark:
            item.add_marker(pytest.mark.skip(reason=f"embedded only: {mark.args[0]}"))
        mark = item.get_closest_marker("one_store")
        if FLEET == "postgres" and mark:
            item.add_marker(pytest.mark.skip(reason=f"with SQLite only: {mark.args[0]}"))


def pytest_sessionfinish():
    if FLEETS:
        FLEETS.close()
    shutil.rmtree(_home, ignore_errors=True)


def run(*command, check=True, input=None, env=None, timeout=120, cwd=None):
    """Runs a program; its standard output. A failure shows everything it said."""
    text = [str(word) for word in command]
    done = subprocess.run(text, capture_output=True, input=input, timeout=timeout, cwd=cwd,
                          env={**os.environ, **(env or {})})
    out = done.stdout.decode(errors="replace")
    if check and done.returncode:
        raise AssertionError(f"{' '.join(text)}: status {done.returncode}\n{out}\n{done.stderr.decode(errors='replace')}")
    return out


def need(*programs):
    """Skips a test whose program is not installed; not in CI, where each must be."""
    for program in programs:
        if not shutil.which(program):
            if os.environ.get("CI"):
                raise AssertionError(f"{program} is not installed")
            pytest.skip(f"{program} is not installed")


@pytest.fixture(scope="session")
def postgres():
    """The PostgreSQL of this process's tests. Skips where there is none; not in CI, where it must be."""
    if FLEETS and FLEETS.postgres:
        yield FLEETS.postgres
        return
    if not has_postgres():
        need("initdb")
    server = fleet.Postgres()
    yield server
    server.stop()


def has_postgres():
    return any(pathlib.Path("/usr/lib/postgresql").glob("*/bin/initdb")) or bool(shutil.which("initdb"))


@dataclass
class Token:
    """A token with both PINs, and programs that use it."""

    label: str
    home: pathlib.Path
    module: pathlib.Path = MODULE
    pin: str = PIN
    so_pin: str = SO_PIN

    def tool(self, *args, login=True, **kwargs):
        """pkcs11-tool on this token."""
        pin = ["--login", "--pin", self.pin] if login else []
        return run("pkcs11-tool", "--module", self.module, "--token-label", self.label, *pin, *args, **kwargs)

    def uri(self, more=""):
        return f"pkcs11:token={self.label}{more}"


@pytest.fixture(scope="module", autouse=FLEETS is not None)
def _hsms_end():
    """The HSMs of the fleets that a module makes end with it."""
    first = len(FLEETS.made)
    yield
    FLEETS.rest(first, but=("ctypes", "tools"))


@pytest.fixture(scope="session")
def home():
    return pathlib.Path(_home)


@pytest.fixture(scope="session")
def regions_of():
    """What the Regions of this run are, by `regions.Elsewhere`."""
    return "fleet" if FLEETS else "embedded"


@pytest.fixture(scope="session")
def module(home):
    """The module in this process."""
    library = cryptoki.Module(MODULE)
    library.initialize()
    yield library
    library.finalize()


@pytest.fixture(scope="session")
def slot(module):
    return module.make_token("ctypes", SO_PIN.encode(), PIN.encode())


@pytest.fixture(scope="session")
def session(module, slot):
    """A session with the user logged in."""
    opened = module.session(slot)
    opened.login(PIN.encode())
    return opened


@pytest.fixture(scope="session")
def token(home):
    """A token for other programs, made by pkcs11-tool as the README says."""
    need("pkcs11-tool")
    if FLEETS:
        FLEETS.make("tools", SO_PIN, PIN)
        return Token("tools", home)
    run("pkcs11-tool", "--module", MODULE, "--init-token", "--label", "tools", "--so-pin", SO_PIN, *free_slot())
    run("pkcs11-tool", "--module", MODULE, "--token-label", "tools", "--login", "--login-type", "so", "--so-pin", SO_PIN,
        "--init-pin", "--new-pin", PIN)
    return Token("tools", home)


@pytest.fixture(scope="module")
def own_fleet(tmp_path_factory):
    """Founds fleets that are not in this process's configuration, of a label and options of conclaved. None where
    tokens are embedded."""
    if not FLEETS:
        yield None
        return
    made = []

    def found(label, **options):
        directory = tmp_path_factory.mktemp("fleet") / "fleet"
        made.append(FLEETS.apart(directory, label=label, so_pin=SO_PIN, pin=PIN, **options))
        return made[-1]

    yield found
    for one in made:
        one.close()


def free_slot():
    """--slot-index of the uninitialised slot, which is always the last."""
    listing = run("pkcs11-tool", "--module", MODULE, "--list-slots")
    count = listing.count("Slot ")
    return ["--slot-index", str(count - 1)]
