#!/usr/bin/env python3
"""Writes src/schema/builtin.txt and src/schema/descriptions.txt: the schema of every built-in kind.

Read as source text from the cargo registry (fetched by any build, or by `cargo fetch`):
  k8s-openapi  its `json_schema!` blocks: JSON names, types, required fields, descriptions; its `Resource` impls: kinds
  k8s-pb       its prost attributes: protobuf tags; its comments: +listType, +listMapKey, +mapType, +structType,
               +patchStrategy, +patchMergeKey, +default
  go_types.txt (beside this script) pointer fields and named Go types, which neither crate tells; see go_types.py

Run: python3 control/api/tools/gen_schema.py [--check]
Differences between the two crates are printed; src/schema/parse.rs describes the output.
"""
import glob, json, os, re, sys

HERE = os.path.dirname(os.path.abspath(__file__))
OUT = os.path.join(HERE, "..", "src", "schema")
K8S = "v1_36"
# Served groups at their stable versions: (k8s-openapi and k8s-pb module path, the Go package's import path).
MODULES = [
    ("apimachinery/pkg/apis/meta/v1", "k8s.io/apimachinery/pkg/apis/meta/v1"),
    ("apimachinery/pkg/api/resource", "k8s.io/apimachinery/pkg/api/resource"),
    ("apimachinery/pkg/runtime", "k8s.io/apimachinery/pkg/runtime"),
    ("apimachinery/pkg/util/intstr", "k8s.io/apimachinery/pkg/util/intstr"),
    ("apiextensions_apiserver/pkg/apis/apiextensions/v1", "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"),
    ("kube_aggregator/pkg/apis/apiregistration/v1", "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"),
] + [(f"api/{g}", f"k8s.io/api/{g}") for g in (
    "admissionregistration/v1", "apps/v1", "authentication/v1", "authorization/v1", "autoscaling/v1",
    "autoscaling/v2", "batch/v1", "certificates/v1", "coordination/v1", "core/v1", "discovery/v1", "events/v1",
    "flowcontrol/v1", "networking/v1", "node/v1", "policy/v1", "rbac/v1", "resource/v1", "scheduling/v1", "storage/v1")]

META, APIEXT = "io.k8s.apimachinery.pkg.apis.meta.v1", "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1"
# Types with a JSON form of their own: scalars to us, not messages.
SCALARS = {
    "io.k8s.apimachinery.pkg.api.resource.Quantity": "quantity",
    "io.k8s.apimachinery.pkg.util.intstr.IntOrString": "intstr",
    "io.k8s.apimachinery.pkg.runtime.RawExtension": "any",
    f"{META}.Time": "time", f"{META}.MicroTime": "microtime",
    f"{META}.FieldsV1": "any", f"{META}.Patch": "any",
    f"{APIEXT}.JSON": "any",
    f"{APIEXT}.JSONSchemaPropsOrArray": "any", f"{APIEXT}.JSONSchemaPropsOrBool": "any",
    f"{APIEXT}.JSONSchemaPropsOrStringArray": "any",
}
# Defaults that the Go comments name by constant.
REFS = {"ref(AzureDataDiskCachingReadWrite)": '"ReadWrite"', "ref(AzureSharedBlobDisk)": '"Shared"'}

warnings = []
def warn(text): warnings.append(text)
def squash(name): return re.sub(r"[^a-z0-9]", "", name.lower())

def crate(name):
    found = sorted(glob.glob(os.path.expanduser(f"~/.cargo/registry/src/*/{name}.*")))
    if not found: sys.exit(f"{name} is not in the cargo registry; see README.md beside this script")
    return found[-1]

# ---- k8s-openapi ----------------------------------------------------------------------------------------------

def openapi_json(block):
    """The JSON of a json_schema! block, with every subschema_for as {"$ref": rust path}."""
    block = re.sub(r'\(\{\s*let mut schema_obj = __gen\.subschema_for::<crate::([\w:]+)>\(\);\s*'
                   r'schema_obj\.ensure_object\(\)\.insert\("description"\.into\(\), ("(?:[^"\\]|\\.)*")\.into\(\)\);\s*schema_obj\s*\}\)',
                   r'{"$ref": "\1", "description": \2}', block)
    block = re.sub(r'\(?__gen\.subschema_for::<crate::([\w:]+)>\(\)\)?', r'{"$ref": "\1"}', block)
    block = re.sub(r",(\s*[}\]])", r"\1", block)
    block = re.sub(r"\\u\{([0-9a-fA-F]+)\}", lambda m: "\\u%04x" % int(m[1], 16), block)
    return json.loads(block, strict=False)

def read_openapi(base):
    """{rust path: {name, schema, gvk, list_kind}}"""
    out = {}
    for module, _ in MODULES:
        for path in sorted(glob.glob(f"{base}/src/{K8S}/{module}/*.rs")):
            text = open(path).read()
            schema = re.search(r"impl crate::schemars::JsonSchema for (\w+).*?\"(io\.k8s\.[\w.\-]+)\".*?json_schema!\((\{.*?\n        \})\)", text, re.S)
            if not schema: continue
            rust = module.replace("/", "::") + "::" + schema[1]
            const = lambda n: (re.search(rf"const {n}: &'static str = \"([^\"]*)\"", text) or [None, None])[1]
            gvk = (const("GROUP"), const("VERSION"), const("KIND")) if const("KIND") else None
            out[rust] = dict(name=schema[2], schema=openapi_json(schema[3]), gvk=gvk, list_kind=const("LIST_KIND"),
                             merge=read_merge(text), module=module)
    return out

def read_merge(text):
    """{squashed field: list type} as the DeepMerge impl has it, to check the markers against."""
    return {squash(m[2]): m[1] for m in re.finditer(r"merge_strategies::list::(\w+)\(\s*&mut self\.(\w+)", text)}

# ---- k8s-pb ---------------------------------------------------------------------------------------------------

def read_pb(base):
    """{module: {squashed struct name: {markers, fields: {squashed name: {...}}}}}"""
    out = {}
    modules = [m for m, _ in MODULES]
    for module in modules + [m + beta for m in modules for beta in ("beta1", "beta2")]:
        if not os.path.exists(f"{base}/src/{module}/mod.rs"): continue
        text = open(f"{base}/src/{module}/mod.rs").read()
        structs = {}
        for m in re.finditer(r"((?:^///[^\n]*\n)*)#\[derive\([^\]]*::prost::Message\)\]\npub struct (\w+)\s*\{(?:\}|(.*?)^\})", text, re.S | re.M):
            fields = {}
            for f in re.finditer(r"((?:^    ///[^\n]*\n)*)^    #\[prost\((.*?)\)\]\n\s*pub (?:r#)?(\w+):\s*(.*?),\n", (m[3] or "") + "\n", re.S | re.M):
                tag = re.search(r'tag = "(\d+)"', f[2])
                fields[squash(f[3])] = dict(tag=int(tag[1]), kind=f[2], markers=markers(f[1]), type=re.sub(r"\s+", "", f[4]), rust=f[3])
            structs[squash(m[2])] = dict(markers=markers(m[1]), fields=fields, rust=m[2])
        out[module] = structs
    return out

def markers(comment):
    found = {}
    for m in re.finditer(r"^\s*/// \+(?:k8s:)?([\w]+)=(.*)$", comment, re.M):
        found.setdefault(m[1], []).append(m[2].strip().strip('"') if m[1] != "default" else m[2].strip())
    return found

def pb_message(module, type_):
    """The (module, squashed name) that a prost field type refers to."""
    inner = re.findall(r"(?:super::)*[\w:]*\w", type_)[-1]
    parts, base = inner.split("::"), module.split("/")
    while parts[0] == "super":
        parts.pop(0); base.pop()
    return "/".join(base + parts[:-1]), squash(parts[-1])

# ---- joining --------------------------------------------------------------------------------------------------

FORMATS = {("integer", "int32"): "int32", ("integer", "int64"): "int64", ("integer", None): "int64", ("number", "double"): "double",
           ("string", None): "string", ("string", "byte"): "bytes", ("boolean", None): "bool", ("object", None): "any"}

class Generator:
    def __init__(self):
        self.openapi, self.pb = read_openapi(crate("k8s-openapi-0.29")), read_pb(crate("k8s-pb-0.9"))
        self.go = read_go_types()
        self.descriptions, self.ids = [], {}
        self.lines, self.hidden = [], {}

    def describe(self, text):
        if not text: return ""
        if text not in self.ids:
            self.ids[text] = len(self.descriptions)
            self.descriptions.append(text)
        return str(self.ids[text])

    def type_of(self, schema):
        if "$ref" in schema:
            target = self.openapi.get(schema["$ref"])
            if target is None: sys.exit(f"no schema for {schema['$ref']}")
            return SCALARS.get(target["name"], "@" + target["name"])
        if schema.get("x-kubernetes-int-or-string"): return "intstr"
        if schema["type"] == "array": return "[]" + self.type_of(schema["items"])
        if schema["type"] == "object" and "additionalProperties" in schema: return "{}" + self.type_of(schema["additionalProperties"])
        return FORMATS[(schema["type"], schema.get("format"))]

    def run(self):
        for rust, item in sorted(self.openapi.items(), key=lambda kv: kv[1]["name"]):
            if item["name"] not in SCALARS: self.message(rust, item)
        for name in sorted(self.hidden): self.lines += self.hidden[name]

    def message(self, rust, item):
        module, schema = item["module"], item["schema"]
        pb = self.find_pb(module, squash(rust.split("::")[-1]))
        if pb is None: warn(f"{item['name']}: not in k8s-pb"); pb = dict(markers={}, fields={})
        name = item["name"]
        flags = ["a"] if pb["markers"].get("structType") == ["atomic"] else []
        gvk = "/".join(item["gvk"]) if item["gvk"] else ""
        self.lines.append("\t".join(["M", name, gvk, item["list_kind"] or "", ",".join(flags), self.describe(schema.get("description"))]))
        used, required = set(), set(schema.get("required", []))
        for json_name, prop in schema.get("properties", {}).items():
            field = pb["fields"].get(squash(json_name))
            if field: used.add(squash(json_name))
            embedded = None if field else self.embedded(module, pb, squash(json_name))
            self.lines.append(self.field(item, module, json_name, prop, field, json_name in required, embedded))
        for key, field in pb["fields"].items():
            if key in used: continue
            if field["kind"].startswith("message") and "repeated" not in field["kind"]: self.inline(item, module, schema, field)
            else: warn(f"{item['name']}: k8s-pb has field {field['rust']} ({field['tag']}), k8s-openapi has not")

    def find_pb(self, module, name):
        """k8s-pb's struct; for one that is newer at this version than k8s-pb, that of its beta, whose tags it keeps."""
        for m in (module, module + "beta1", module + "beta2"):
            if name in self.pb.get(m, {}): return self.pb[m][name]

    def embedded(self, module, pb, name):
        """The field of that name in a struct embedded by this one: it carries the markers."""
        for field in pb["fields"].values():
            if field["kind"].startswith("message") and "repeated" not in field["kind"]:
                target_module, target = pb_message(module, field["type"])
                found = self.pb.get(target_module, {}).get(target, dict(fields={}))["fields"].get(name)
                if found and target_module == module: return found

    def inline(self, item, module, schema, field):
        """A struct embedded in Go: JSON puts its fields into the parent, protobuf keeps it as a message."""
        target_module, target = pb_message(module, field["type"])
        pb = self.pb[target_module][target]
        names = {squash(n): n for n in schema.get("properties", {})}
        if not all(k in names or "message" in f["kind"] for k, f in pb["fields"].items()):
            warn(f"{item['name']}: k8s-pb has field {field['rust']} ({field['tag']}), k8s-openapi has not"); return
        rust = [r for r in self.openapi if r.startswith(target_module.replace("/", "::") + "::") and squash(r.split("::")[-1]) == target]
        if rust: name = self.openapi[rust[0]]["name"]
        else:
            name = "inline." + ".".join(item["name"].split(".")[-3:-1]) + "." + pb["rust"]
            lines = ["\t".join(["M", name, "", "", "h", ""])]
            for key, f in pb["fields"].items():
                if key not in names: warn(f"{item['name']}: {field['rust']} has {f['rust']}, k8s-openapi has not"); continue
                lines.append(self.field(item, target_module, names[key], schema["properties"][names[key]], f, False))
            self.hidden.setdefault(name, lines)
        for i in range(len(self.lines) - 1, -1, -1):  # the parent's copies of these fields have no tag of their own
            if self.lines[i].startswith("M\t"): break
        self.lines.append("\t".join(["I", str(field["tag"]), "@" + name]))

    def field(self, item, module, json_name, prop, pb, required, embedded=None):
        type_ = self.type_of(prop)
        marks = (pb or embedded or dict(markers={}))["markers"]
        flags = ["r"] if required else []
        # Fields newer than the binary that go_types.txt was read from: optional ones are pointers by convention.
        optional = "*" if not required and type_[0] not in "[{" else ""
        go = self.go.get(item["name"], {}).get(json_name, optional)
        if go.startswith("*"): flags.append("p")
        list_type = (marks.get("listType") or [None])[0]
        merged = item["merge"].get(squash(json_name))
        if type_.startswith("[]"):
            if list_type is None and merged in ("set",): list_type = merged
            if list_type == "map": flags.append("l=map:" + "+".join(marks["listMapKey"]))
            elif list_type: flags.append("l=" + list_type)
            elif merged == "map" and not marks.get("patchMergeKey"): warn(f"{item['name']}.{json_name}: DeepMerge has a map, k8s-pb no marker")
        if marks.get("mapType") == ["atomic"]: flags.append("a")
        strategies = (marks.get("patchStrategy") or [""])[0]
        if strategies: flags.append("s=" + strategies.replace(",", "+"))
        if marks.get("patchMergeKey"): flags.append("m=" + marks["patchMergeKey"][0])
        if type_.startswith("[]") or type_.startswith("{}"):
            if pb and "message" in pb["kind"] and type_.strip("[]{}") in ("string",): flags.append("w")
        if pb: self.check_wire(item, module, json_name, type_, pb)
        default = (marks.get("default") or [""])[0]
        default = REFS.get(default, default)
        if default: json.loads(default)
        return "\t".join(["F", json_name, str(pb["tag"]) if pb else "0", type_, ",".join(flags),
                          go.split(":")[1] if ":" in go else "", default, self.describe(prop.get("description"))])

    def check_wire(self, item, module, json_name, type_, pb):
        base = type_.replace("[]", "").replace("{}", "")
        wire = {"string": "string", "bool": "bool", "int32": "int32", "int64": "int64", "double": "double", "bytes": "bytes"}.get(base, "message")
        kind = pb["kind"]
        ok = f'"string, {wire}' in kind if type_.startswith("{}") else kind.startswith(wire)
        if not ok and not (wire == "string" and "message" in kind and ("[]" in type_)):
            warn(f"{item['name']}.{json_name}: JSON type {type_}, on the wire {kind} {pb['type']}")

def read_go_types():
    """{message: {field: its mark}}, the mark being `*`, `:NAME`, both or nothing."""
    out = {}
    for line in open(os.path.join(HERE, "go_types.txt")):
        if line.startswith("#"): continue
        message, *fields = line.split()
        parts = [re.match(r"([^*:]+)(.*)", f) for f in fields]
        out[message] = {m[1]: m[2] for m in parts}
    return out

def main():
    g = Generator()
    g.run()
    escape = lambda s: s.replace("\\", "\\\\").replace("\n", "\\n").replace("\t", "\\t").replace("\r", "")
    files = {"builtin.txt": "\n".join(g.lines) + "\n", "descriptions.txt": "\n".join(map(escape, g.descriptions)) + "\n"}
    stale = False
    for name, text in files.items():
        path = os.path.join(OUT, name)
        if "--check" in sys.argv:
            stale |= open(path).read() != text
        else:
            open(path, "w").write(text)
            print(f"{name}: {len(text):,} bytes, {text.count(chr(10)):,} lines")
    for w in warnings: print("note:", w)
    if stale: sys.exit("the generated schema is out of date: run control/api/tools/gen_schema.py")

main()
