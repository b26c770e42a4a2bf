"""What programs do with the official Python client. Ends with "all is well", or with what was wrong.

Usage: client.py KUBECONFIG [IMAGE], the image being one of a container with a shell; without it nothing is executed.
"""
import sys
import threading
import time

from kubernetes import client, config, dynamic, utils, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

KUBECONFIG, IMAGE = sys.argv[1], (sys.argv[2:] or [None])[0]
NAMESPACE = "python"
FINE = "all is well"


def expect(is_so, what):
    if not is_so:
        raise AssertionError(what)


def refused(code, reason, call):
    """The call fails with that code and reason."""
    try:
        call()
    except ApiException as error:
        expect(error.status == code and f'"reason":"{reason}"' in error.body.replace('": "', '":"'), error)
        return error
    raise AssertionError(f"not refused with {code} {reason}")


def eventually(what, look, seconds=60):
    end = time.time() + seconds
    while not (found := look()):
        expect(time.time() < end, f"{what}: not within {seconds} s")
        time.sleep(0.1)
    return found


config.load_kube_config(KUBECONFIG)
core, apps, custom = client.CoreV1Api(), client.AppsV1Api(), client.CustomObjectsApi()
core.create_namespace(client.V1Namespace(metadata=client.V1ObjectMeta(name=NAMESPACE)))


def maps():
    """Create, watch, patches, apply, pages, delete."""
    seen = []

    def follow():
        watcher = watch.Watch()
        for event in watcher.stream(core.list_namespaced_config_map, NAMESPACE, label_selector="kind=test", timeout_seconds=30):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                watcher.stop()

    follower = threading.Thread(target=follow, daemon=True)
    follower.start()
    body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a", labels={"kind": "test"}), data={"one": "1"})
    made = core.create_namespaced_config_map(NAMESPACE, body)
    expect(made.metadata.uid and made.metadata.creation_timestamp.tzinfo, made)
    refused(409, "AlreadyExists", lambda: core.create_namespaced_config_map(NAMESPACE, body))
    refused(404, "NotFound", lambda: core.read_namespaced_config_map("none", NAMESPACE))
    bad = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="A_"))
    error = refused(422, "Invalid", lambda: core.create_namespaced_config_map(NAMESPACE, bad))
    expect("metadata.name" in error.body, error.body)

    # A dict is sent as a strategic merge patch, a list as a JSON patch.
    core.patch_namespaced_config_map("a", NAMESPACE, {"data": {"two": "2"}})
    core.patch_namespaced_config_map("a", NAMESPACE, [{"op": "remove", "path": "/data/one"}])
    found = core.read_namespaced_config_map("a", NAMESPACE)
    expect(found.data == {"two": "2"}, found.data)
    made.data = {"stale": "yes"}
    refused(409, "Conflict", lambda: core.replace_namespaced_config_map("a", NAMESPACE, made))

    applied = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "applied"}, "data": {"x": "1"}}
    how = {"_content_type": "application/apply-patch+yaml", "field_manager": "one"}
    core.patch_namespaced_config_map("applied", NAMESPACE, applied, **how)
    applied["data"]["x"] = "2"
    how["field_manager"] = "two"
    patch = lambda **more: core.patch_namespaced_config_map("applied", NAMESPACE, applied, **how, **more)
    error = refused(409, "Conflict", patch)
    expect(".data.x" in error.body, error.body)
    found = patch(force=True)
    expect([entry.manager for entry in found.metadata.managed_fields] == ["two"], found.metadata.managed_fields)

    core.delete_namespaced_config_map("a", NAMESPACE)
    follower.join(30)
    expect([kind for kind, _ in seen] == ["ADDED", "MODIFIED", "MODIFIED", "DELETED"], seen)

    for number in range(7):
        meta = client.V1ObjectMeta(generate_name="page-", labels={"kind": "page"})
        core.create_namespaced_config_map(NAMESPACE, client.V1ConfigMap(metadata=meta))
    names, token = [], None
    while token != "":
        page = core.list_namespaced_config_map(NAMESPACE, label_selector="kind=page", limit=3, _continue=token)
        expect(len(page.items) <= 3, page)
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue or ""
    expect(len(set(names)) == 7, names)
    core.delete_collection_namespaced_config_map(NAMESPACE, label_selector="kind=page")
    expect(not core.list_namespaced_config_map(NAMESPACE, label_selector="kind=page").items, "pages are left")


def customs():
    """A kind of one's own, by the untyped client and by the dynamic one."""
    group, plural = "python.example.com", "rowers"
    schema = {
        "type": "object",
        "properties": {
            "spec": {"type": "object", "required": ["oars"], "properties": {"oars": {"type": "integer", "minimum": 1}}},
            "status": {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        },
    }
    definition = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.{group}"},
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {"plural": plural, "singular": "rower", "kind": "Rower"},
            "versions": [{
                "name": "v1", "served": True, "storage": True, "subresources": {"status": {}},
                "schema": {"openAPIV3Schema": schema},
            }],
        },
    }
    extensions = client.ApiextensionsV1Api()
    extensions.create_custom_resource_definition(definition)

    def established():
        status = extensions.read_custom_resource_definition(f"{plural}.{group}").status
        return any(c.type == "Established" and c.status == "True" for c in status.conditions or [])

    eventually("the definition is established", established)
    where = (group, "v1", NAMESPACE, plural)
    body = {"apiVersion": f"{group}/v1", "kind": "Rower", "metadata": {"name": "r"}, "spec": {"oars": 2, "unknown": 1}}
    made = custom.create_namespaced_custom_object(*where, body)
    expect(made["spec"] == {"oars": 2}, made)
    body["metadata"]["name"], body["spec"]["oars"] = "none", 0
    refused(422, "Invalid", lambda: custom.create_namespaced_custom_object(*where, body))
    custom.patch_namespaced_custom_object(*where, "r", {"spec": {"oars": 4}})
    custom.patch_namespaced_custom_object_status(*where, "r", {"status": {"afloat": True}})
    found = custom.get_namespaced_custom_object(*where, "r")
    expect(found["spec"]["oars"] == 4 and found["status"] == {"afloat": True}, found)
    expect(found["metadata"]["generation"] == 2, found)

    resources = dynamic.DynamicClient(client.ApiClient()).resources.get(api_version=f"{group}/v1", kind="Rower")
    body["metadata"]["name"], body["spec"] = "second", {"oars": 1}
    resources.server_side_apply(body, name="second", namespace=NAMESPACE, field_manager="python")
    expect({r.metadata.name for r in resources.get(namespace=NAMESPACE).items} == {"r", "second"}, "not both are listed")
    resources.delete(name="second", namespace=NAMESPACE)
    extensions.delete_custom_resource_definition(f"{plural}.{group}")
    eventually("the definition is gone", lambda: not any(
        d.metadata.name == f"{plural}.{group}" for d in extensions.list_custom_resource_definition().items))


def workloads():
    """A Deployment from a dictionary, and its scale."""
    labels = {"app": "idle"}
    utils.create_from_dict(client.ApiClient(), {
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "idle", "namespace": NAMESPACE},
        "spec": {"replicas": 0, "selector": {"matchLabels": labels},
                 "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none:v1"}]}}},
    })
    apps.patch_namespaced_deployment_scale("idle", NAMESPACE, {"spec": {"replicas": 2}})
    pods = eventually("two Pods are made", lambda: (
        found if len(found := core.list_namespaced_pod(NAMESPACE, label_selector="app=idle").items) == 2 else None))
    expect(pods[0].metadata.owner_references[0].kind == "ReplicaSet", pods[0].metadata)
    expect(apps.read_namespaced_deployment_scale("idle", NAMESPACE).status.selector == "app=idle", "no selector")
    apps.delete_namespaced_deployment("idle", NAMESPACE, propagation_policy="Foreground")
    eventually("its Pods go", lambda: not core.list_namespaced_pod(NAMESPACE, label_selector="app=idle").items)


def processes():
    """Logs, exec with input and exit code, port-forward."""
    core.create_namespaced_pod(NAMESPACE, {"metadata": {"name": "p"}, "spec": {
        "terminationGracePeriodSeconds": 1, "containers": [{"name": "c", "image": IMAGE}]}})
    eventually("the Pod runs", lambda: core.read_namespaced_pod("p", NAMESPACE).status.phase == "Running")
    eventually("it logs", lambda: "serving" in core.read_namespaced_pod_log("p", NAMESPACE))
    said = stream(core.connect_get_namespaced_pod_exec, "p", NAMESPACE, command=["sh", "-c", "echo out; echo err >&2"],
                  stdout=True, stderr=True, stdin=False, tty=False)
    expect(sorted(said.split()) == ["err", "out"], said)
    open_ = stream(core.connect_get_namespaced_pod_exec, "p", NAMESPACE, command=["sh"], stdin=True, stdout=True,
                   stderr=True, tty=False, _preload_content=False)
    open_.write_stdin("echo in-$((6*7)); exit 3\n")
    open_.run_forever(timeout=30)
    expect(open_.read_stdout().strip() == "in-42" and open_.returncode == 3, open_.returncode)
    forward = portforward(core.connect_get_namespaced_pod_portforward, "p", NAMESPACE, ports="8080")
    socket = forward.socket(8080)
    socket.sendall(b"GET /version HTTP/1.0\r\nHost: p\r\n\r\n")
    socket.settimeout(30)
    answer = b""
    while part := socket.recv(4096):
        answer += part
    expect(b"200 OK" in answer and answer.strip().endswith(b"v1"), answer)
    core.create_namespaced_pod_eviction("p", NAMESPACE, client.V1Eviction(metadata=client.V1ObjectMeta(name="p")))
    eventually("the Pod goes", lambda: not core.list_namespaced_pod(NAMESPACE, field_selector="metadata.name=p").items)


def versions():
    expect(client.VersionApi().get_code().major == "1", "no version")
    expect("v1" in client.CoreApi().get_api_versions().versions, "no v1")
    review = client.V1SelfSubjectAccessReview(spec=client.V1SelfSubjectAccessReviewSpec(
        resource_attributes=client.V1ResourceAttributes(verb="create", resource="pods", namespace=NAMESPACE)))
    expect(client.AuthorizationV1Api().create_self_subject_access_review(review).status.allowed, "not allowed")


for part in [versions, maps, customs, workloads] + ([processes] if IMAGE else []):
    part()
core.delete_namespace(NAMESPACE)
print(FINE)
