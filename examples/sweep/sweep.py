"""Try 20 settings of a classifier; find the best, the run that made it, and go back to it.

python3 sweep.py [folder]
"""

import sys
from collections import Counter

from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

from functionfuse import LocalWorkflow, storage_factory, workflow

NAME = "digits"
STRENGTHS = [0.1, 1, 10, 100, 1000]
GAMMAS = [0.0001, 0.001, 0.01, 0.1]


@workflow
def load():
    """Return 1,797 images of digits as rows of 64 numbers, and the digits."""
    return load_digits(return_X_y=True)


@workflow
def split(data, seed):
    """Return images and digits to learn from, and others for the test."""
    images, digits = data
    return train_test_split(images, digits, test_size=0.5, random_state=seed)


@workflow
def fit(parts, strength, gamma):
    """Return a classifier that has learned."""
    images, _, digits, _ = parts
    return SVC(C=strength, gamma=gamma).fit(images, digits)


@workflow
def score(classifier, parts):
    """Return which part of the test images it names rightly."""
    _, images, _, digits = parts
    return float(classifier.score(images, digits))


def experiment(storage, strength, gamma):
    """Return the workflow for one setting."""
    parts = split(load().set_name("load"), seed=1).set_name("split")
    classifier = fit(parts, strength, gamma).set_name("fit")
    flow = LocalWorkflow(score(classifier, parts).set_name("score"), workflow_name=NAME)
    flow.set_storage(storage)
    return flow


def main(folder):
    """Run all settings, and look at the runs."""
    storage = storage_factory({"kind": "file", "options": {"path": folder}})
    for strength in STRENGTHS:
        for gamma in GAMMAS:
            experiment(storage, strength, gamma).run()

    runs = storage.runs(NAME, last=20)
    rows = runs.rows("score")
    print("strength   gamma   score")
    for row in rows:
        print(f"{row['fit.strength']:8g} {row['fit.gamma']:7g} {row['score']:7.1%}")

    best = max((row for row in rows if row["score"] is not None), key=lambda row: row["score"])
    run = runs[best["id"]]
    print(f"\nThe best: {best['score']:.1%} by run {run.id} of {run.user} on {run.host}")
    for node in run.nodes:
        print(f"  {node.name:6} {node.action:9} {node.arguments}")

    print("\nWhat that run changed:")
    number = rows.index(best)
    for change in runs[max(0, number - 1)].compare(run):
        if change.what == "argument":
            print(f"  {change.node}.{change.name}: {change.before} -> {change.after}")

    print("\nWhat its score was computed from:")
    print(run.lineage("score"))

    flow = experiment(storage, best["fit.strength"], best["fit.gamma"])
    again, report = flow.run(), flow.report
    print(f"\nBack to it: {again:.1%},", dict(Counter(node.action for node in report.nodes)))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "sweep-results")
