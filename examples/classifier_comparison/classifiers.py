"""Ten classifiers on three data sets that scikit-learn brings along, as one graph of 70 nodes.

For each data set: load, split, fit and score each classifier, rank them; then one summary table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn import datasets
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import QuadraticDiscriminantAnalysis
from sklearn.ensemble import AdaBoostClassifier, RandomForestClassifier
from sklearn.gaussian_process import GaussianProcessClassifier
from sklearn.gaussian_process.kernels import RBF
from sklearn.model_selection import train_test_split
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier
from threadpoolctl import threadpool_limits

from functionfuse import workflow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functionfuse.workflow import Node

WORKFLOW_NAME = "classifier comparison"

Array = np.ndarray[Any, Any]
Ranking = list[tuple[str, float]]


def nearest_neighbours() -> Any:
    """Let the three nearest samples vote."""
    return make_pipeline(StandardScaler(), KNeighborsClassifier(n_neighbors=3))


def linear_svm() -> Any:
    """Part the classes by planes."""
    return make_pipeline(StandardScaler(), SVC(kernel="linear", C=0.025))


def rbf_svm() -> Any:
    """Part the classes by curved surfaces."""
    return make_pipeline(StandardScaler(), SVC(kernel="rbf", C=10))


def gaussian_process() -> Any:
    """Keep the kernel's width fixed: tuning it would take longer than all the rest."""
    return make_pipeline(
        StandardScaler(), GaussianProcessClassifier(RBF(5.0), optimizer=None, random_state=0)
    )


def decision_tree() -> Any:
    """Ask one question after the other."""
    return DecisionTreeClassifier(random_state=0)


def random_forest() -> Any:
    """Let 50 trees vote, each grown from another draw of the samples."""
    return RandomForestClassifier(n_estimators=50, random_state=0)


def neural_net() -> Any:
    """Learn one hidden layer of 50 units."""
    net = MLPClassifier((50,), learning_rate_init=0.01, max_iter=1000, random_state=0)
    return make_pipeline(StandardScaler(), net)


def adaboost() -> Any:
    """Grow 50 small trees, each for what those before it got wrong."""
    tree = DecisionTreeClassifier(max_depth=3, random_state=0)
    return AdaBoostClassifier(tree, n_estimators=50, random_state=0)


def naive_bayes() -> Any:
    """Take the features as independent of each other."""
    return make_pipeline(StandardScaler(), GaussianNB(var_smoothing=1e-2))


def qda() -> Any:
    """Stand behind a PCA, because some pixels of the digits are always blank."""
    pca = PCA(n_components=0.9, random_state=0)
    return make_pipeline(StandardScaler(), pca, QuadraticDiscriminantAnalysis(reg_param=0.1))


CLASSIFIERS: dict[str, Callable[[], Any]] = {
    "nearest neighbours": nearest_neighbours,
    "linear SVM": linear_svm,
    "RBF SVM": rbf_svm,
    "Gaussian process": gaussian_process,
    "decision tree": decision_tree,
    "random forest": random_forest,
    "neural net": neural_net,
    "AdaBoost": adaboost,
    "naive Bayes": naive_bayes,
    "QDA": qda,
}

# A Gaussian process takes time that grows with the cube of the samples.
ROWS = {"Gaussian process": 200}

DATA_SETS: dict[str, Callable[..., Any]] = {
    "digits": datasets.load_digits,
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
}


@workflow
def load(loader: Callable[..., Any]) -> tuple[Array, Array]:
    """Return the features, one row for each sample, and the samples' classes."""
    features, classes = loader(return_X_y=True)
    return features, classes


@workflow
def split(features: Array, classes: Array) -> dict[str, Array]:
    """Set two samples of five aside for the test."""
    parts = train_test_split(features, classes, test_size=0.4, stratify=classes, random_state=0)
    return dict(zip(("train", "test", "train classes", "test classes"), parts, strict=True))


@workflow
def fit(
    classifier: Callable[[], Any], train: Array, classes: Array, rows: int | None = None
) -> Any:
    """Return a classifier fitted to the first `rows` samples, or to all."""
    with threadpool_limits(1):  # on so few samples, threads take longer to meet than to work
        return classifier().fit(train[:rows], classes[:rows])


@workflow
def score(model: Any, test: Array, classes: Array) -> float:
    """Return the accuracy: the share of test samples whose class is found."""
    with threadpool_limits(1):
        return float(model.score(test, classes))


@workflow
def rank(scores: dict[str, float]) -> Ranking:
    """Return classifiers and accuracies, the best first."""
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


@workflow
def summarise(rankings: dict[str, Ranking]) -> dict[str, dict[str, float]]:
    """Return classifier -> data set -> accuracy, the best classifier on average first."""
    table: dict[str, dict[str, float]] = {name: {} for name in CLASSIFIERS}
    for data_set, ranking in rankings.items():
        for classifier, accuracy in ranking:
            table[classifier][data_set] = accuracy
    return dict(sorted(table.items(), key=lambda row: -sum(row[1].values())))


def comparison(rows: Mapping[str, int] = ROWS) -> Node:
    """Build the graph; return its last node, named "summary". Computes nothing.

    Args:
        rows: how many samples a classifier is fitted to, where it isn't all.
    """
    rankings = {}
    for data_set, loader in DATA_SETS.items():
        data = load(loader).set_name(f"{data_set}/load")
        parts = split(data[0], data[1]).set_name(f"{data_set}/split")
        scores = {}
        for name, classifier in CLASSIFIERS.items():
            model = fit(classifier, parts["train"], parts["train classes"], rows=rows.get(name))
            model.set_name(f"{data_set}/{name}/fit")
            scores[name] = score(model, parts["test"], parts["test classes"])
            scores[name].set_name(f"{data_set}/{name}/score")
        rankings[data_set] = rank(scores).set_name(f"{data_set}/ranking")
    return summarise(rankings).set_name("summary")
