#!/usr/bin/env python3
"""Writes go_types.txt: which fields of the Kubernetes types are pointers in Go, and which have named scalar types.

Neither k8s-openapi nor k8s-pb tells, but protobuf bodies carry every field that is not a pointer, empty or not, so a
decoder must know. Any Go client linked with client-go holds the answer in its run-time type information (`reflect`),
which this reads from the ELF file of a released kubectl.

Run: python3 control/api/tools/go_types.py PATH_TO_KUBECTL
"""
import os, re, struct, sys

MAP, POINTER, SLICE, STRING, STRUCT = 21, 22, 23, 24, 25
KINDS = {1: "bool", 5: "int32", 6: "int64", 24: "string"}

class Binary:
    def __init__(self, path):
        self.data = open(path, "rb").read()
        shoff, = struct.unpack_from("<Q", self.data, 0x28)
        size, count, names = struct.unpack_from("<HHH", self.data, 0x3A)
        headers = [struct.unpack_from("<IIQQQQ", self.data, shoff + i * size) for i in range(count)]
        name = lambda h: self.data[headers[names][4] + h[0]:].split(b"\0", 1)[0].decode()
        self.sections = {name(h): h[3:6] for h in headers}
        self.ranges = [(h[3], h[4], h[5]) for h in headers if h[3] and h[1] != 8]

    def at(self, address):
        for start, offset, size in self.ranges:
            if start <= address < start + size: return offset + address - start
        raise ValueError(hex(address))

    def u(self, address, fmt):
        return struct.unpack_from("<" + fmt, self.data, self.at(address))[0]

    def name(self, address):
        """abi.Name: flags, length, text, then the tag likewise."""
        at = self.at(address); flags = self.data[at]; at += 1
        def text(at):
            length = shift = 0
            while True:
                b = self.data[at]; at += 1
                length |= (b & 0x7F) << shift; shift += 7
                if b < 0x80: return self.data[at:at + length].decode(errors="replace"), at + length
        value, at = text(at)
        return value, text(at)[0] if flags & 2 else "", bool(flags & 8)

class Types:
    def __init__(self, binary):
        self.b, self.base, self.seen = binary, binary.sections[".rodata"][0], {}
        address, _, size = binary.sections[".typelink"]
        for i in range(0, size, 4): self.visit(self.base + binary.u(address + i, "i"))

    def visit(self, address):
        stack = [address]
        while stack:
            address = stack.pop()
            if address in self.seen: continue
            kind, flags = self.b.u(address + 23, "B") & 31, self.b.u(address + 20, "B")
            name = self.b.name(self.base + self.b.u(address + 40, "i"))[0]
            if flags & 2: name = name[1:]
            item = self.seen[address] = dict(kind=kind, name=name, named=bool(flags & 4), fields=[], package="")
            if kind in (POINTER, SLICE): stack.append(self.b.u(address + 48, "Q")); item["elem"] = stack[-1]
            elif kind == MAP: stack.append(self.b.u(address + 56, "Q"))
            elif kind == STRUCT:
                fields, count = self.b.u(address + 56, "Q"), self.b.u(address + 64, "Q")
                for i in range(count):
                    field_name, tag, embedded = self.b.name(self.b.u(fields + 24 * i, "Q"))
                    stack.append(self.b.u(fields + 24 * i + 8, "Q"))
                    item["fields"].append((field_name, tag, stack[-1]))
                if flags & 1: item["package"] = self.b.name(self.base + self.b.u(address + 80, "i"))[0]

    def fields(self, item):
        """(JSON name, type) with embedded structs flattened."""
        for _, tag, address in item["fields"]:
            json = tag.split('json:"')[1].split('"')[0].split(",") if 'json:"' in tag else None
            if json is None: continue
            target = self.seen[address]
            if json[0] == "" and "inline" in json: yield from self.fields(target)
            elif json[0] not in ("", "-"): yield json[0], target

    def describe(self, target):
        pointer = "*" if target["kind"] == POINTER else ""
        if pointer: target = self.seen[target["elem"]]
        named = target["named"] and target["kind"] in KINDS and target["name"] not in KINDS.values()
        return pointer + (":" + target["name"] if named else "")

def main():
    types = Types(Binary(sys.argv[1]))
    lines = set()
    for item in types.seen.values():
        if item["kind"] != STRUCT or not item["package"].startswith("k8s.io/"): continue
        host, *path = item["package"].split("/")
        name = ".".join(reversed(host.split("."))) + "." + ".".join(path) + "." + item["name"].split(".")[-1]
        fields = " ".join(f + types.describe(t) for f, t in types.fields(item))
        if name.startswith(("io.k8s.api.", "io.k8s.apimachinery.", "io.k8s.apiextensions", "io.k8s.kube-aggregator")) and fields \
                and not re.search(r"\.v\d+(alpha|beta)\d+\.", name): lines.add(f"{name} {fields}")
    out = os.path.join(os.path.dirname(os.path.abspath(__file__)), "go_types.txt")
    with open(out, "w") as f:
        f.write("# message, then its fields; * marks a pointer, :NAME a named scalar type. Written by go_types.py.\n")
        f.write("\n".join(sorted(lines)) + "\n")
    print(f"{len(lines)} messages")

main()
