"""The trainer image in a pod as train pods are: what a GPU's kernels need, without a GPU."""

import pytest

from demo.kubectl import Kubectl
from finetune_operator.manifests.pod import CONTAINER_SECURITY, WORK_MOUNTS, WORK_VOLUMES, pod_spec

pytestmark = pytest.mark.e2e

PROBE = '''
from liger_kernel.transformers import _apply_liger_kernel_to_instance
from triton.runtime.build import compile_module_from_src

SOURCE = r"""
#include <Python.h>
static PyObject *answer(PyObject *self, PyObject *arguments) { return PyLong_FromLong(42); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, ""}, {NULL, NULL, 0, NULL}};
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "probe", NULL, -1, methods};
PyMODINIT_FUNC PyInit_probe(void) { return PyModule_Create(&definition); }
"""
print("compiled", compile_module_from_src(SOURCE, "probe").answer())
'''


def test_triton_can_compile_in_a_train_pod(cluster: Kubectl, namespace: Kubectl) -> None:
    """As it compiles its binding to the driver before the first kernel: of TRL's loss, and of the fused layers."""
    operator = cluster.within("finetune-system").get("deployment", "finetune-operator")["spec"]["template"]["spec"]
    env = {each["name"]: each.get("value") for each in operator["containers"][0]["env"]}
    container = {
        "name": "trainer",
        "image": env["FINETUNE_TRAINER_IMAGE"],
        "command": ["python", "-c", PROBE],
        "env": [{"name": "HOME", "value": "/tmp"}],
        "securityContext": CONTAINER_SECURITY,
        "volumeMounts": WORK_MOUNTS,
    }
    spec = {**pod_spec(None, None), "restartPolicy": "Never", "containers": [container], "volumes": WORK_VOLUMES}
    namespace.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "probe"}, "spec": spec})
    namespace("wait", "pod/probe", "--for=jsonpath={.status.containerStatuses[0].state.terminated}", "--timeout=120s")
    assert "compiled 42" in namespace("logs", "probe")
