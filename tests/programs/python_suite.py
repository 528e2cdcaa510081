"""Runs modules of Python's own tests (libpython3.11-testsuite), named by the arguments, without those excluded below.

What fails is run a second time, as Python's builders do (regrtest --rerun), because some of the tests watch the clock.
"""
import fnmatch, sys, unittest

from test import support

# Names of tests, and why they can't be expected to pass.
EXCLUDED = {
    "*.test_above_fd_setsize": "takes minutes for its 65,504 descriptors",
}
# Only what is asked for beyond the machine is a resource that isn't there; of the modules, one calls the loopback so.
support.use_resources = ["network"] if sys.argv[1:] == ["test_socketserver"] else []
# An emulated machine is slow, and its host may be busy.
support.LOOPBACK_TIMEOUT = support.SHORT_TIMEOUT = support.LONG_TIMEOUT = 300.0


def flatten(suite):
    for test in suite:
        yield from flatten(test) if isinstance(test, unittest.TestSuite) else [test]


def run(tests):
    result = unittest.TextTestRunner(verbosity=0).run(unittest.TestSuite(tests))
    return result, {test.id() for test, _ in result.errors + result.failures} | {
        test.id() for test in result.unexpectedSuccesses
    }


loader = unittest.defaultTestLoader
suite = loader.loadTestsFromNames(["test." + name for name in sys.argv[1:]])
names = [test.id() for test in flatten(suite)]
wanted = [name for name in names if not any(fnmatch.fnmatch(name, pattern) for pattern in EXCLUDED)]
result, failed = run(loader.loadTestsFromNames(wanted))
if failed:
    print("once more:", *sorted(failed), flush=True)
    again = [name for name in failed if name in wanted]
    # What failed before any test ran has no name to run it by.
    failed = run(loader.loadTestsFromNames(again))[1] if len(again) == len(failed) else failed
print(f"ran {result.testsRun}, skipped {len(result.skipped)}, excluded {len(names) - len(wanted)}")
print("failed:", *sorted(failed) or ["none"], flush=True)
sys.exit(bool(failed))
