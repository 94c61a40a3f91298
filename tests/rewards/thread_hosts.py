"""Hosts of a run that are threads of one process: what each of them brings, all learn."""

import threading


class ThreadHosts:
    """As many hosts as threads; `run` starts them, and inside it this is what each of them knows of the others (panel.Exchange)."""

    def __init__(self, count, *, stuck_s=60.0):
        self.count, self.stuck_s = count, stuck_s
        self._mine, self._brought, self._met = threading.local(), [None] * count, threading.Barrier(count, timeout=60)

    def run(self, call):
        """What call(index) returns on each, or the error that it raised there: for the test to look at."""
        results = [None] * self.count

        def one(index):
            self._mine.index = index
            try:
                results[index] = call(index)
            except Exception as error:
                results[index] = error

        threads = [threading.Thread(target=one, args=(index,)) for index in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in threads)
        return results

    def gather_text(self, text):
        self._brought[self._mine.index] = text
        self._met.wait()
        found = list(self._brought)
        self._met.wait()
        return found

    def agree(self, flag):
        return any(self.gather_text(flag))
