// What programs do with the official JavaScript client. Ends with "all is well", or with what was wrong.
//
// Usage: node client.mjs KUBECONFIG [IMAGE], the image being one of a container with a shell; without it nothing is executed.
import { PassThrough, Writable } from 'node:stream';
import net from 'node:net';
import * as k8s from '@kubernetes/client-node';

const [kubeconfig, image] = process.argv.slice(2);
const namespace = 'javascript';

const config = new k8s.KubeConfig();
config.loadFromFile(kubeconfig);
const core = config.makeApiClient(k8s.CoreV1Api);
const apps = config.makeApiClient(k8s.AppsV1Api);
const custom = config.makeApiClient(k8s.CustomObjectsApi);
const as = (type) => k8s.setHeaderOptions('Content-Type', type);

function expect(isSo, what) {
  if (!isSo) throw new Error(typeof what === 'string' ? what : JSON.stringify(what));
}

async function refused(code, reason, call) {
  try {
    await call();
  } catch (error) {
    const body = typeof error.body === 'string' ? JSON.parse(error.body) : error.body;
    expect(error.code === code && body?.reason === reason, String(error));
    return body;
  }
  throw new Error(`not refused with ${code} ${reason}`);
}

async function eventually(what, look) {
  const end = Date.now() + 60_000;
  for (;;) {
    const found = await look();
    if (found) return found;
    expect(Date.now() < end, `${what}: not within a minute`);
    await new Promise((wake) => setTimeout(wake, 100));
  }
}

// Create, an informer, patches, apply, delete.
async function maps() {
  const list = () => core.listNamespacedConfigMap({ namespace, labelSelector: 'kind=test' });
  const informer = k8s.makeInformer(config, `/api/v1/namespaces/${namespace}/configmaps`, list, 'kind=test');
  const seen = [];
  for (const kind of ['add', 'update', 'delete']) informer.on(kind, (map) => seen.push(`${kind} ${map.metadata.name}`));
  await informer.start();
  const body = { metadata: { name: 'a', labels: { kind: 'test' } }, data: { one: '1' } };
  const made = await core.createNamespacedConfigMap({ namespace, body });
  expect(made.metadata.creationTimestamp instanceof Date && made.metadata.uid, made);
  await eventually('it is seen', () => seen.length === 1);
  await refused(409, 'AlreadyExists', () => core.createNamespacedConfigMap({ namespace, body }));
  await refused(404, 'NotFound', () => core.readNamespacedConfigMap({ namespace, name: 'none' }));
  const bad = await refused(422, 'Invalid', () =>
    core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'A_' } } }));
  expect(bad.details.causes[0].field === 'metadata.name', bad);

  const change = (patch, type) => core.patchNamespacedConfigMap({ namespace, name: 'a', body: patch }, as(type));
  await change({ data: { two: '2' } }, k8s.PatchStrategy.StrategicMergePatch);
  await change({ data: { three: '3' } }, k8s.PatchStrategy.MergePatch);
  await change([{ op: 'remove', path: '/data/one' }], k8s.PatchStrategy.JsonPatch);
  const found = await core.readNamespacedConfigMap({ namespace, name: 'a' });
  expect(JSON.stringify(Object.keys(found.data).sort()) === '["three","two"]', found.data);
  await refused(409, 'Conflict', () => core.replaceNamespacedConfigMap({ namespace, name: 'a', body: made }));

  const apply = (fieldManager, x, force) => core.patchNamespacedConfigMap(
    { namespace, name: 'applied', fieldManager, force,
      body: { apiVersion: 'v1', kind: 'ConfigMap', metadata: { name: 'applied' }, data: { x } } },
    as(k8s.PatchStrategy.ServerSideApply));
  await apply('one', '1');
  const conflict = await refused(409, 'Conflict', () => apply('two', '2'));
  expect(conflict.details.causes[0].reason === 'FieldManagerConflict', conflict);
  const applied = await apply('two', '2', true);
  expect(applied.metadata.managedFields.map((entry) => entry.manager).join() === 'two', applied.metadata);

  await core.deleteNamespacedConfigMap({ namespace, name: 'a' });
  await eventually('its end is seen', () => seen.at(-1) === 'delete a');
  expect(seen[0] === 'add a' && seen.includes('update a'), seen);
  await informer.stop();
}

// A kind of one's own, by the untyped client and by the one of whole objects.
async function customs() {
  const [group, version, plural] = ['javascript.example.com', 'v1', 'rowers'];
  const name = `${plural}.${group}`;
  const extensions = config.makeApiClient(k8s.ApiextensionsV1Api);
  const properties = {
    spec: { type: 'object', required: ['oars'], properties: { oars: { type: 'integer', minimum: 1 } } },
    status: { type: 'object', x_kubernetes_preserve_unknown_fields: true },
  };
  const objects = k8s.KubernetesObjectApi.makeApiClient(config);
  await objects.create({
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name },
    spec: {
      group,
      scope: 'Namespaced',
      names: { plural, singular: 'rower', kind: 'Rower' },
      versions: [{ name: version, served: true, storage: true, subresources: { status: {} },
        schema: { openAPIV3Schema: { type: 'object', properties } } }],
    },
  });
  await eventually('the definition is established', async () => {
    const { status } = await extensions.readCustomResourceDefinition({ name });
    return status?.conditions?.some((c) => c.type === 'Established' && c.status === 'True');
  });
  const where = { group, version, namespace, plural };
  const rower = (called, oars) => ({ apiVersion: `${group}/${version}`, kind: 'Rower', metadata: { name: called, namespace }, spec: { oars } });
  await custom.createNamespacedCustomObject({ ...where, body: rower('r', 2) });
  await refused(422, 'Invalid', () => custom.createNamespacedCustomObject({ ...where, body: rower('none', 0) }));
  await custom.patchNamespacedCustomObject(
    { ...where, name: 'r', body: { spec: { oars: 4 } } }, as(k8s.PatchStrategy.MergePatch));
  await custom.patchNamespacedCustomObjectStatus(
    { ...where, name: 'r', body: { status: { afloat: true } } }, as(k8s.PatchStrategy.MergePatch));
  const found = await custom.getNamespacedCustomObject({ ...where, name: 'r' });
  expect(found.spec.oars === 4 && found.status.afloat && found.metadata.generation === 2, found);
  await objects.patch(rower('second', 1), undefined, undefined, 'javascript', true, k8s.PatchStrategy.ServerSideApply);
  const { items } = await custom.listNamespacedCustomObject(where);
  expect(items.map((item) => item.metadata.name).sort().join() === 'r,second', items);
  await extensions.deleteCustomResourceDefinition({ name });
}

// A Deployment and its scale.
async function workloads() {
  const labels = { app: 'idle' };
  await apps.createNamespacedDeployment({ namespace, body: {
    metadata: { name: 'idle' },
    spec: { replicas: 0, selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: { containers: [{ name: 'c', image: 'none:v1' }] } } },
  } });
  await apps.patchNamespacedDeploymentScale(
    { namespace, name: 'idle', body: { spec: { replicas: 2 } } }, as(k8s.PatchStrategy.MergePatch));
  const pods = async () => (await core.listNamespacedPod({ namespace, labelSelector: 'app=idle' })).items;
  await eventually('two Pods are made', async () => (await pods()).length === 2);
  await apps.deleteNamespacedDeployment({ namespace, name: 'idle', propagationPolicy: 'Background' });
  await eventually('its Pods go', async () => (await pods()).length === 0);
}

// Logs, exec with input and exit code, port-forward.
async function processes() {
  await core.createNamespacedPod({ namespace, body: { metadata: { name: 'p' },
    spec: { terminationGracePeriodSeconds: 1, containers: [{ name: 'c', image }] } } });
  await eventually('the Pod runs', async () => (await core.readNamespacedPod({ namespace, name: 'p' })).status.phase === 'Running');
  await eventually('it logs', async () => (await core.readNamespacedPodLog({ namespace, name: 'p' })).includes('serving'));
  let said = '';
  const collect = () => new Writable({ write(part, _, done) { said += part; done(); } });
  const input = new PassThrough();
  const status = await new Promise((done, failed) => {
    new k8s.Exec(config).exec(namespace, 'p', 'c', ['sh'], collect(), collect(), input, false, done).catch(failed);
    input.write('echo in-$((6*7)); echo err >&2; exit 3\n');
  });
  expect(said.includes('in-42') && said.includes('err'), said);
  expect(status.reason === 'NonZeroExitCode' && status.details.causes[0].message === '3', status);

  const forward = new k8s.PortForward(config);
  const server = net.createServer((socket) => void forward.portForward(namespace, 'p', [8080], socket, null, socket));
  await new Promise((listening) => server.listen(0, '127.0.0.1', listening));
  const socket = net.connect(server.address().port, '127.0.0.1');
  socket.write('GET /version HTTP/1.0\r\nHost: p\r\n\r\n');
  let answer = '';
  socket.on('data', (part) => { answer += part; });
  await eventually('the Pod answers', () => answer.includes('200 OK') && answer.trim().endsWith('v1'));
  socket.destroy();
  server.close();
}

async function versions() {
  const { major } = await config.makeApiClient(k8s.VersionApi).getCode();
  expect(major === '1', major);
  const { status } = await config.makeApiClient(k8s.AuthorizationV1Api).createSelfSubjectAccessReview(
    { body: { spec: { resourceAttributes: { verb: 'create', resource: 'pods', namespace } } } });
  expect(status.allowed, status);
}

await core.createNamespace({ body: { metadata: { name: namespace } } });
for (const part of [versions, maps, customs, workloads, ...(image ? [processes] : [])]) {
  await part();
}
await core.deleteNamespace({ name: namespace });
console.log('all is well');
process.exit(0);
