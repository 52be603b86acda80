"""What a quorum decides while the hosts of a fleet work, over several HSMs."""

import json
import urllib.error
import urllib.request

import pytest

from conftest import FLEET, run
from cryptoki import ck
from fleet import Fleet, program
from hosts import HostProcess
from peer.command import Command
from users import User


@pytest.mark.skipif(bool(FLEET), reason="its fleet is its own")
def test_the_domain_key_changes_while_hosts_work(tmp_path):
    """Two hosts' work is not disturbed by rotations and an expulsion, and all is in the audit log of both HSMs."""
    with Fleet(tmp_path / "fleet", hsms=3) as fleet:
        hosts = [HostProcess(fleet.directory, name, fleet.entry(), fleet.pin) for name in ("one", "two")]
        for host in hosts:
            host.do("keys")
        for number, host in enumerate(hosts):
            host.tell("load", 5, 2, f"key{number}")
        for _ in range(3):
            fleet.execute("rotate domain key", None)
        fleet.execute("expel HSM", fleet.hsms[2].id, None)
        reports = [host.answer()["ok"] for host in hosts]
        assert [(report["wrong"], report["errors"]) for report in reports] == [(0, [])] * 2
        counted = hosts[0].do("labels")
        assert [label for report in reports for label in report["made"] if counted.get(label) != 1] == []
        for host in hosts:
            host.close()


@pytest.mark.skipif(bool(FLEET), reason="its fleet is its own")
def test_an_approval_is_for_one_process_at_one_hsm(tmp_path):
    """Two processes use a key under dual control at different HSMs; each waits for an approval of its own, which the
    operators hand in at either."""
    with Fleet(tmp_path / "fleet", hsms=2, label="guarded") as fleet:
        confs = [fleet.directory / f"{hsm.name}.toml" for hsm in fleet.hsms]
        for conf, hsm in zip(confs, fleet.hsms):
            conf.write_text("embedded = false\n" + fleet.entry([hsm.address]))
        one, two = users = [User(conf, "guarded", "user", fleet.pin) for conf in confs]
        key = one.create("ECC_NIST_P256", KeyUsage="SIGN_VERIFY",
                         DualControl={"Operators": [person.name for person in fleet.people], "Threshold": 2})
        use = "standard", "sign", key, 0, ck.CKM_ECDSA, bytes(32)
        for user in users:
            assert user.refusal(*use) == "CKR_KEY_FUNCTION_NOT_PERMITTED"

        def pending(conf):
            return json.loads(run(program("conclave"), "proposal", "list", "--json", env={"CONCLAVE_CONF": str(conf)}))

        assert len(pending(confs[0])) == len(pending(confs[1])) == 2
        first = min(pending(confs[1]), key=lambda each: each["arguments"]["instance"] != one.instance())
        paper = tmp_path / "approval"
        paper.write_bytes(Command(bytes.fromhex(first["proposal"])).sign(
            *[person.signing for person in fleet.people[:2]]).encode())
        run(program("conclave"), "proposal", "submit", paper, env={"CONCLAVE_CONF": str(confs[1])})
        assert two.refusal(*use) == "CKR_KEY_FUNCTION_NOT_PERMITTED"
        assert len(one.standard(*use[1:])) == 64
        assert one.refusal(*use) == "CKR_KEY_FUNCTION_NOT_PERMITTED"
        for user in users:
            user.close()
        assert "the log is whole" in run(program("conclave"), "audit", "verify", env={"CONCLAVE_CONF": str(confs[0])})


def _asked(hsm, path):
    """What an HSM's monitors get: the status and the text."""
    try:
        with urllib.request.urlopen(f"http://{hsm.metrics}{path}", timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.skipif(bool(FLEET), reason="its fleet is its own")
def test_what_monitors_see(tmp_path):
    """An HSM is healthy while it is a member, and counts logins, wrong PINs and operations."""
    with Fleet(tmp_path / "fleet", hsms=2) as fleet:

        def figures(hsm):
            lines = _asked(hsm, "/metrics")[1].splitlines()
            return dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))

        before = [int(figures(hsm)["conclaved_logins_total"]) for hsm in fleet.hsms]
        at_first = HostProcess(fleet.directory, "one", fleet.entry([fleet.hsms[0].address]), fleet.pin)
        at_first.do("keys")
        seen = figures(fleet.hsms[0])
        assert seen["conclaved_member"] == "1"
        assert int(seen["conclaved_domain_version"]) == fleet.state().version
        for hsm, logins, more in zip(fleet.hsms, before, (1, 0)):
            assert _asked(hsm, "/healthz")[0] == 200
            assert int(figures(hsm)["conclaved_logins_total"]) == logins + more
        assert fleet.pin not in _asked(fleet.hsms[0], "/metrics")[1]
        fleet.execute("expel HSM", fleet.hsms[1].id, None)
        fleet.bring(fleet.hsms[1])
        assert _asked(fleet.hsms[1], "/healthz")[0] == 503
        assert figures(fleet.hsms[1])["conclaved_member"] == "0"
        at_first.close()
