"""Train on several processors or machines: set up tf.distribute from the environment."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from mobilenets_tf.errors import RequestError, unknown
from mobilenets_tf.training import cluster

KINDS = ("auto", "none", "mirrored", "multi_worker")


@dataclass(frozen=True)
class Distribution:
    """A ``tf.distribute`` strategy and this process's number in it.

    worker: this process's number, from 0. Worker 0 alone writes files. workers: how many processes there are.
    """

    strategy: tf.distribute.Strategy
    worker: int = 0
    workers: int = 1

    @property
    def replicas(self) -> int:
        """The number of copies of the model, on all workers together."""
        return self.strategy.num_replicas_in_sync

    def spread(self, batches: Callable[[], tf.data.Dataset]):
        """Give ``strategy.run`` this process's batches, one element a replica."""
        if self.replicas == 1:
            return batches()
        return self.strategy.distribute_datasets_from_function(lambda _: batches())

    def check_same(self, value: int, what: str) -> None:
        """Check that all workers call this with the same value. what: the value, for the message.

        Raises:
            RequestError: the values differ.
        """
        mine = self.strategy.run(lambda: tf.constant([value], tf.int64))
        values = self.strategy.gather(mine, axis=0).numpy().tolist() if self.replicas > 1 else [value]
        if len(set(values)) > 1:
            raise RequestError(f"The workers do not agree on the {what}: {values}.")

    @property
    def writes(self) -> bool:
        """Whether this process writes files."""
        return self.worker == 0


def set_up(kind: str = "auto", replicas: int | None = None) -> Distribution:
    """Make the strategy of a kind. Call this before any other use of TensorFlow.

    Args:
        kind: "none" (one model), "mirrored" (a copy on each GPU of this machine; without a GPU, ``replicas`` copies on
            its processor, to try it out), "multi_worker" (one process a machine; TF_CONFIG or Slurm names the cluster),
            or "auto": multi_worker where there is a cluster, mirrored where there are several GPUs, else none.
        replicas: for "mirrored" without GPUs; left out, 2.

    Raises:
        RequestError: there is no such kind or no cluster, or TF_CONFIG is wrong.
    """
    if kind not in KINDS:
        raise unknown("distribution", kind, KINDS)
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "auto":
        kind = "multi_worker" if cluster.workers() > 1 else "mirrored" if len(gpus) > 1 else "none"
    if kind == "none":
        return Distribution(tf.distribute.get_strategy())
    if kind == "mirrored":
        return Distribution(tf.distribute.MirroredStrategy(None if gpus else _processors(replicas or 2)))
    if cluster.workers() < 1:
        raise RequestError(
            f"No cluster to be found: set TF_CONFIG on each worker, or start under Slurm. Example: {cluster.EXAMPLE}"
        )
    if not cluster.tf_config():
        os.environ["TF_CONFIG"] = _of_slurm()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    resolver = strategy.cluster_resolver
    return Distribution(strategy, resolver.task_id or 0, len(resolver.cluster_spec().as_dict().get("worker", [None])))


def _of_slurm() -> str:
    """Make the TF_CONFIG of this task of a Slurm step. Slurm decides which GPUs the task sees (--gpus-per-task)."""
    # With numbers of GPUs that never run out, the resolver hands out none itself, and does not run nvidia-smi.
    resolver = tf.distribute.cluster_resolver.SlurmClusterResolver(
        gpus_per_node=2**16, gpus_per_task=1, auto_set_gpu=False
    )
    workers = resolver.cluster_spec().as_dict()["worker"]
    _, index = resolver.get_task_info()
    return json.dumps({"cluster": {"worker": workers}, "task": {"type": "worker", "index": index}})


def _processors(count: int) -> list[str]:
    """Return ``count`` logical devices of this machine's processor; make them if there are fewer.

    Raises:
        RequestError: TensorFlow is running already, so that no devices can be made.
    """
    device = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(device, [tf.config.LogicalDeviceConfiguration()] * count)
    except RuntimeError as error:  # it runs already; are there enough?
        if len(tf.config.list_logical_devices("CPU")) < count:
            raise RequestError(f"{count} replicas on the processor must be set up before TensorFlow runs.") from error
    return [f"CPU:{index}" for index in range(count)]
