"""Runs the examples that stand beside each solution of a set of exercises, and tells for each module how
many there were and how many did otherwise than they say. Takes the set as a file to import from, and the
parts of it to run."""

import doctest
import importlib
import json
import pkgutil
import sys

sys.path.insert(0, sys.argv[1])
told = {}
for part in sys.argv[2:]:
    package = importlib.import_module(part)
    for one in pkgutil.walk_packages(package.__path__, part + "."):
        try:
            module = importlib.import_module(one.name)
        except Exception as problem:
            told[one.name] = type(problem).__name__
            continue
        runner = doctest.DocTestRunner(verbose=False)
        for test in doctest.DocTestFinder().find(module):
            runner.run(test, out=lambda text: None)
        told[one.name] = [runner.tries, runner.failures]
print(json.dumps(told))
