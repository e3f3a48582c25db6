"""The machines that train together, as the environment names them. Needs no TensorFlow."""

import json
import os

from mobilenets_tf.errors import RequestError

EXAMPLE = '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, "task": {"type": "worker", "index": 0}}'


class PeerLostError(Exception):
    """Another worker does not answer any more."""


def workers() -> int:
    """Count the processes that TF_CONFIG or Slurm names; 0 where neither does.

    Raises:
        RequestError: TF_CONFIG does not have the form that ``tf_config`` describes.
    """
    if config := tf_config():
        return len(config["cluster"]["worker"])
    return int(os.environ.get("SLURM_NTASKS", 0)) if "SLURM_STEP_NODELIST" in os.environ else 0


def tf_config() -> dict:
    """Read TF_CONFIG; {} where it is not set.

    Raises:
        RequestError: TF_CONFIG does not have its form: one job, "worker", and a task of that job.
    """
    text = os.environ.get("TF_CONFIG", "")
    if not text.strip():
        return {}
    try:
        config = json.loads(text)
        addresses, task = config["cluster"]["worker"], config["task"]
        if config["cluster"].keys() != {"worker"} or task["type"] != "worker":
            raise ValueError('the one job must be "worker"')
        if not 0 <= task["index"] < len(addresses):
            raise ValueError(f"there is no worker {task['index']} of {len(addresses)}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RequestError(f"TF_CONFIG={text!r} is not as it should be ({error}). For example: {EXAMPLE}") from error
    return config
