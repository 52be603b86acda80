"""What stands between a host and an HSM: it sees whole frames and passes on what it likes."""

import socket
import struct
import threading

TO_HSM, TO_HOST = "to HSM", "to host"


class Pair:
    """A connection of a host, and the proxy's own to the HSM. `frames` are those that came, as they came."""

    def __init__(self, proxy, host):
        self.proxy, self.host = proxy, host
        self.hsm = _connected(proxy.upstream)
        self.frames = {TO_HSM: [], TO_HOST: []}
        self.linked = self.attacked = False
        for way in TO_HSM, TO_HOST:
            threading.Thread(target=self._carry, args=[way], daemon=True).start()

    def _carry(self, way):
        source, sink = (self.host, self.hsm) if way == TO_HSM else (self.hsm, self.host)
        try:
            while (frame := _frame(source)) is not None:
                self.frames[way].append(frame)
                # Kind 3 is `connect`: what is answered to it begins the link.
                passed = self.proxy.rule(self, way, frame) if self.linked else self.proxy.clear_rule(self, way, frame)
                if way == TO_HOST and len(self.frames[TO_HSM][-1]) > 2 and self.frames[TO_HSM][-1][5] == 3:
                    self.linked = True
                if passed:
                    sink.sendall(passed)
        except OSError:
            pass
        self.close()

    def close(self):
        for end in self.host, self.hsm:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def _connected(address):
    kind, _, place = address.partition(":")
    if kind == "tcp":
        host, _, port = place.rpartition(":")
        return socket.create_connection((host, int(port)))
    made = socket.socket(socket.AF_UNIX)
    made.connect(place)
    return made


def _exactly(source, count):
    data = b""
    while len(data) < count:
        part = source.recv(count - len(data))
        if not part:
            return None
        data += part
    return data


def _frame(source):
    """A frame with its length."""
    length = _exactly(source, 4)
    data = length and _exactly(source, *struct.unpack(">I", length))
    return None if data is None else length + data


def honest(_pair, _way, frame):
    return frame


class Proxy:
    """At `address`, before the HSM at `upstream`. A rule gets pair, way and frame, and gives what is passed on."""

    def __init__(self, path, upstream):
        self.address, self.upstream = f"unix:{path}", upstream
        self.rule = self.clear_rule = honest
        self.pairs, self.attacks, self.is_cut = [], 0, False
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                host, _ = self._listener.accept()
            except OSError:
                return
            if self.is_cut:
                host.close()
                continue
            try:
                self.pairs.append(Pair(self, host))
            except OSError:
                host.close()

    def attack(self, attack, times=1, clear=False, where=honest):
        """Does this to so many frames; all others are passed on. An attack gives None for what it does not want."""
        self.attacks = 0
        lock = threading.Lock()

        def rule(pair, way, frame):
            with lock:
                if self.attacks < times:
                    passed = attack(pair, way, frame)
                    if passed is not None:
                        self.attacks += 1
                        pair.attacked = True
                        return passed
            return frame

        self.rule, self.clear_rule = (where, rule) if clear else (rule, where)

    def calm(self):
        self.rule = self.clear_rule = honest

    def cut(self):
        """The network is gone."""
        self.is_cut = True
        for pair in self.pairs:
            pair.close()

    def mend(self):
        self.is_cut = False

    def close(self):
        self.cut()
        self._listener.close()
