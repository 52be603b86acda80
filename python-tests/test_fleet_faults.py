"""Three HSMs and four hosts under load, while everything fails that can. CONCLAVE_FLEET_SOAK: for so many seconds."""

import os
import subprocess
import time
from statistics import mean

import pytest

from conftest import has_postgres
from fleet import ROOT, Fleet
from hosts import HostProcess
from proxy import Proxy

SECONDS = int(os.environ.get("CONCLAVE_FLEET_SOAK", "22"))
HOSTS, THREADS = 4, 2
# Until a failure may be noticed by nobody.
RECOVERY = 4


class Faults:
    """What happens, and when the application may notice."""

    def __init__(self, fleet, proxies, postgres):
        self.fleet, self.proxies, self.postgres = fleet, proxies, postgres
        self.outages = []

    def outage(self, begin, end):
        begun = time.time()
        begin()
        time.sleep(1)
        end()
        self.outages.append((begun, time.time() + RECOVERY))

    def hsm_dies(self, hsm):
        hsm.kill()
        time.sleep(0.5)
        self.fleet.restart(hsm)

    def network_is_cut(self):
        self.outage(lambda: [proxy.cut() for proxy in self.proxies], lambda: [proxy.mend() for proxy in self.proxies])

    def one_way_is_cut(self):
        self.proxies[0].cut()
        time.sleep(1)
        self.proxies[0].mend()

    def database_restarts(self):
        if self.postgres is not None:
            script = [str(ROOT / "scripts/postgres.sh")]
            self.outage(lambda: subprocess.run([*script, "down", self.postgres.directory], check=True, capture_output=True),
                        lambda: subprocess.run([*script, "up", self.postgres.directory], check=True, capture_output=True))

    def round(self):
        yield from (lambda hsm=hsm: self.hsm_dies(hsm) for hsm in reversed(self.fleet.hsms))
        yield self.one_way_is_cut
        yield self.network_is_cut
        yield self.database_restarts


@pytest.fixture
def database(request):
    """A PostgreSQL; None where there is none: the store is SQLite's then."""
    return request.getfixturevalue("postgres") if os.environ.get("CI") or has_postgres() else None


@pytest.fixture
def fleet(tmp_path, database):
    with Fleet(tmp_path / "fleet", hsms=3, database=database and database.make("faults")) as made:
        yield made


def test_faults(fleet, database):
    proxies = [Proxy(fleet.directory / f"{hsm.name}.proxy", hsm.address) for hsm in fleet.hsms]
    entry = fleet.entry(hsms=[proxy.address for proxy in proxies], timeout=5)
    hosts = [HostProcess(fleet.directory, f"host{number}", entry, fleet.pin) for number in range(HOSTS)]
    for host in hosts:
        host.do("keys")
    faults = Faults(fleet, proxies, database)
    begun = time.time()
    for number, host in enumerate(hosts):
        host.tell("load", SECONDS, THREADS, f"key{number}")
    time.sleep(2)
    pending = iter(())
    while time.time() < begun + SECONDS - RECOVERY - 5:
        fault = next(pending, None)
        if fault is None:
            pending = faults.round()
        else:
            fault()
    reports = [host.answer(SECONDS + 60)["ok"] for host in hosts]

    assert [report["wrong"] for report in reports] == [0] * HOSTS
    errors = [[begun + error[0], *error[1:]] for report in reports for error in report["errors"]]
    assert {error[2] for error in errors} <= {"CKR_DEVICE_ERROR"}, errors[:10]
    unexcused = [error for error in errors if not any(first <= error[0] <= last for first, last in faults.outages)]
    assert unexcused == [], unexcused[:10]

    # All of them work at the end, about as fast as in the beginning, or as mostly, where others took the machine.
    def rate(report, first, last):
        return sum(count for tenth, count in report["done"].items() if first <= int(tenth) / 10 < last) / (last - first)

    for report in reports:
        rates = [rate(report, second, second + 1) for second in range(SECONDS)]
        usual = min(rate(report, 0, 2), sorted(rates)[SECONDS // 2])
        assert rate(report, SECONDS - 3, SECONDS) > usual / 4, [round(mean(rates[at:at + 10])) for at in range(0, SECONDS, 10)]

    # No key is lost or there twice; after a long time there are many.
    counted = hosts[0].do("labels", seconds=SECONDS + 60)
    for report in reports:
        assert [label for label in report["made"] if counted.get(label) != 1] == []
        assert [label for label in report["unsure"] if counted.get(label, 0) > 1] == []
    assert sum(len(report["made"]) for report in reports) > 0
    for host in hosts:
        host.close()
    for proxy in proxies:
        proxy.close()
