"""A Hugging Face Hub on loopback, for tests with the genuine clients.

It answers what huggingface_hub, transformers and datasets ask of the Hub: create, commit, LFS and Xet uploads,
branches, tags, private and gated repos, downloads with Range, and faults that a test injects. Only the standard library
is needed; hf_xet, which comes with huggingface_hub, reads Xet uploads back.

    hub = LoopbackHub("data_dir").start()                # HF_ENDPOINT=hub.url, HF_TOKEN=hf_user (namespace "user")
    hub.fail("POST", "/commit/", status=503, times=2)    # the next two commits answer 503 and change nothing
    hub.fail("POST", "/commit/", drop=True, late=True)   # the commit is applied, then the connection is cut
    hub.delays.append(("POST", "/commit/", 3))           # matching requests wait first (method, path: regexes)
    hub.repos["model", "user/m"].gated = True            # or .private; hub.log lists every request and its answer

or in a process of its own: `python tests/loopback_hub.py PORT DATADIR [LOG.jsonl]`. The clients read HF_ENDPOINT,
HF_TOKEN and HF_HOME when they are imported: run each of them in a process of its own, with an HF_HOME of its own.

Not covered: the Xet wire to a CAS server, pull requests, multipart LFS, state over a restart, validation of YAML.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import struct
import sys
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (
    ".safetensors",
    ".bin",
    ".pt",
    ".pth",
    ".onnx",
    ".parquet",
    ".arrow",
    ".npz",
    ".zip",
    ".gz",
    ".png",
    ".jpg",
)
GIT_ATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in LFS_SUFFIXES).encode()
MAX_REGULAR_SIZE = 10 * 2**20
REPO = r"/(?:(dataset|space)s/)?([^/]+/[^/]+?)"

# What a repo holds under a path: {"oid", "size", "data"} or, of a large file, {"oid", "size", "lfs"[, "xet"]}.
File = dict[str, Any]


class HubError(Exception):
    """An answer that is no success: status, message, and the Hub's own code."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code = status, code


def need(condition: Any, status: int, message: str, code: str | None = None) -> None:
    if not condition:
        raise HubError(status, message, code)


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())


def git_oid(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def regular_file(data: bytes) -> File:
    return {"oid": git_oid(data), "size": len(data), "data": data}


class Repo:
    """A repository: commits, each with all its files, and the names of some of them."""

    def __init__(self, kind: str, repo_id: str, private: bool = False) -> None:
        self.kind, self.id, self.private, self.gated = kind, repo_id, private, False
        self.readers = {repo_id.split("/")[0]}
        self.commits: dict[str, dict[str, Any]] = {}
        self.branches: dict[str, str] = {}
        self.tags: dict[str, str] = {}
        self.created = now()
        self.write("main", {".gitattributes": regular_file(GIT_ATTRIBUTES)}, "initial commit")

    def write(
        self, branch: str, files: dict[str, File], title: str, description: str = "", user: str | None = "user"
    ) -> str:
        old = self.branches.get(branch)
        sha = hashlib.sha1(json.dumps([old, title, time.time_ns(), sorted(files)]).encode()).hexdigest()
        self.commits[sha] = {
            "id": sha,
            "title": title,
            "message": description,
            "date": now(),
            "authors": [{"user": user}],
            "parents": [old] if old else [],
            "files": files,
        }
        self.branches[branch] = sha
        return sha

    def at(self, revision: str) -> tuple[str, dict[str, File]]:
        sha = self.branches.get(revision) or self.tags.get(revision) or revision
        need(sha in self.commits, 404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return sha, self.commits[sha]["files"]


class LoopbackHub:
    """The server and all it holds; large files lie below `root`."""

    def __init__(
        self, root: str | Path, tokens: dict[str, str] | None = None, log_path: str | Path | None = None
    ) -> None:
        self.root, self.log_path = Path(root).resolve(), log_path
        self.tokens = tokens or {"hf_user": "user", "hf_other": "other"}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.log: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []
        self.delays: list[tuple[str, str, float]] = []
        self.damages: list[str] = []  # paths that the next commit with them stores otherwise than sent
        self.lock, self.down = threading.RLock(), False
        (self.root / "lfs").mkdir(parents=True, exist_ok=True)

    def start(self, port: int = 0) -> "LoopbackHub":
        self.server = ThreadingHTTPServer(("127.0.0.1", port), type("BoundHandler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        self.down = True  # kept-alive connections are cut at their next request
        self.server.shutdown()
        self.server.server_close()

    def fail(
        self,
        method: str,
        path: str,
        status: int = 503,
        times: int = 1,
        skip: int = 0,
        drop: bool = False,
        late: bool = False,
        headers: dict[str, str] | None = None,
    ) -> None:
        """Makes requests fail: `times` of them after `skip`; `drop` cuts the line, `late` after it was carried out."""
        left = [False] * skip + [True] * times
        fault = dict(method=method, path=path, status=status, left=left, drop=drop, late=late, headers=headers)
        self.faults.append(fault)

    def fault(self, method: str, path: str) -> dict[str, Any]:
        with self.lock:
            for fault in self.faults:
                matches = re.fullmatch(fault["method"], method) and re.search(fault["path"], path)
                if fault["left"] and matches and fault["left"].pop(0):
                    return fault
        return {}

    # ---- large files: an LFS store, filled by PUT or, on first need, out of the Xet store that clients wrote ----
    def lfs(self, oid: str) -> Path:
        return self.root / "lfs" / oid

    def xet_index(self) -> dict[str, tuple[str, int]]:
        """sha256 -> (xet hash, size), from the shards that hf_xet left behind local://."""

        def to_hex(data: bytes) -> str:
            return "".join(f"{word:016x}" for word in struct.unpack("<4Q", data))

        index = {}
        for shard in (self.root / "cas").glob("xet/xorbs/shards/*.mdb"):
            data, p = shard.read_bytes(), 48  # 48-byte records: header; per file a head, n segments, n checks?, sha256?
            while data[p : p + 32] != b"\xff" * 32:
                flags, n = struct.unpack_from("<II", data, p + 32)
                body, has_sha = n * (1 + (flags >> 31 & 1)), flags >> 30 & 1
                if has_sha:
                    size = sum(struct.unpack_from("<I", data, p + 48 * (i + 1) + 36)[0] for i in range(n))
                    index[to_hex(data[p + 48 * (body + 1) :][:32])] = (to_hex(data[p : p + 32]), size)
                p += 48 * (1 + body + has_sha)
        return index

    def large_file(self, oid: str) -> File:
        """A commit may name a large file only when its bytes are here and hash to its oid."""
        xet = self.xet_index().get(oid)
        if xet and not self.lfs(oid).exists():
            import hf_xet

            # From a copy: the client's process still holds the store's lock.
            with tempfile.TemporaryDirectory(dir=self.root) as folder:
                store, file = shutil.copytree(self.root / "cas", Path(folder) / "cas"), Path(folder) / "file"
                with hf_xet.XetSession().new_file_download_group(endpoint=f"local://{store}") as group:
                    group.start_download_file(hf_xet.XetFileInfo(*xet), str(file))
                found = hashlib.sha256(file.read_bytes()).hexdigest()
                need(found == oid, 400, "the Xet file's sha256 is not its oid")
                file.rename(self.lfs(oid))
        need(self.lfs(oid).exists(), 400, f"LFS object {oid} was not uploaded")
        entry = {"oid": git_oid(oid.encode()), "size": self.lfs(oid).stat().st_size, "lfs": oid}
        return entry | ({"xet": xet[0]} if xet else {})


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    hub: LoopbackHub

    def log_message(self, *args: Any) -> None:
        pass

    def answer(self) -> None:
        hub, url = self.hub, urlsplit(self.path)
        self.query = parse_qs(url.query)
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        delays = [s for m, p, s in hub.delays if re.fullmatch(m, self.command) and re.search(p, self.path)]
        time.sleep(sum(delays))
        fault = {"drop": True, "late": False} if hub.down else hub.fault(self.command, unquote(self.path))
        self.mute = bool(fault)
        try:
            if not fault or fault["late"]:
                self.route(url.path)
        except HubError as error:
            headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
            self.reply(error.status, {"error": str(error)}, headers)
        except Exception as error:
            self.reply(500, {"error": f"loopback_hub: {error!r}"})
        self.mute = False
        if fault.get("drop"):
            self.note(0, {})
            self.close_connection = True
            self.connection.shutdown(2)
        elif fault:
            self.reply(fault["status"], {"error": "injected fault"}, fault["headers"])

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def note(self, status: int, headers: dict[str, str]) -> None:
        line = dict(method=self.command, path=self.path, status=status, sent=len(self.body), headers=headers)
        self.hub.log.append(line | {"auth": "Authorization" in self.headers})
        if self.hub.log_path:
            with self.hub.lock, open(self.hub.log_path, "a", encoding="utf-8") as file:
                file.write(json.dumps(self.hub.log[-1]) + "\n")

    def reply(self, status: int, body: Any = b"", headers: dict[str, str] | None = None) -> None:
        if self.mute:
            return
        headers = dict(headers or {})
        if not isinstance(body, bytes):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
        headers |= {"Content-Length": str(len(body)), "X-Request-Id": os.urandom(16).hex()}
        self.note(status, headers)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def send_bytes(self, data: bytes, headers: dict[str, str]) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            return self.reply(200, data, {"Accept-Ranges": "bytes", **headers})
        first, last = int(wanted[1]), min(int(wanted[2] or len(data)), len(data) - 1)
        headers = {"Content-Range": f"bytes {first}-{last}/{len(data)}", **headers}
        return self.reply(206 if first <= last else 416, data[first : last + 1], headers)

    # ---- who may do what: a private or missing repo is 401 to a stranger and 404 to somebody else ----
    def user(self, needed: bool = False) -> str | None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        need(not token or token in self.hub.tokens, 401, "Invalid credentials in Authorization header")
        need(token or not needed, 401, "Invalid username or password.")
        return self.hub.tokens.get(token)

    def repo(self, kind: str, repo_id: str, write: bool = False, content: bool = False) -> Repo:
        user, repo = self.user(needed=write), self.hub.repos.get((kind, repo_id))
        if repo is None or (repo.private and user not in repo.readers):
            status, message = (404, "Repository not found") if user else (401, "Invalid username or password.")
            raise HubError(status, message, "RepoNotFound")
        need(not write or user == repo_id.split("/")[0], 403, "You don't have write access to this repo")
        if content and repo.gated and user not in repo.readers:
            message = f"Access to {kind} {repo_id} is restricted and you are not in the authorized list."
            raise HubError(403 if user else 401, message, "GatedRepo")
        return repo

    def web_url(self, kind: str, repo_id: str) -> str:
        return f"{self.hub.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}"

    # ---- addresses ----
    def route(self, path: str) -> None:
        is_json = self.body[:1] == b"{" and "/commit/" not in path
        sent = json.loads(self.body) if is_json else {}
        if path == "/api/whoami-v2":
            auth = {"type": "access_token", "accessToken": {"role": "write"}}
            return self.reply(200, {"type": "user", "name": self.user(True), "orgs": [], "auth": auth})
        if path == "/api/validate-yaml":
            return self.reply(200, {"errors": [], "warnings": []})
        if found := re.fullmatch("/api/repos/(create|delete)", path):
            return self.create_or_delete(found[1] == "create", sent)
        if found := re.fullmatch(r"/_lfs/([0-9a-f]{64})(/verify)?", path):
            return self.lfs_object(found[1])
        if found := re.fullmatch(REPO + r"\.git/info/lfs/objects/batch", path):
            self.repo(found[1] or "model", found[2], write=True)
            objects = [self.lfs_action(entry["oid"], entry["size"]) for entry in sent["objects"]]
            return self.reply(200, {"transfer": "basic", "objects": objects})
        if found := re.fullmatch(REPO + r"/resolve/([^/]+)/(.+)", path):
            repo = self.repo(found[1] or "model", found[2], content=True)
            return self.resolve(repo, unquote(found[3]), unquote(found[4]))
        found = re.fullmatch(r"/api/(model|dataset|space)s/([^/]+/[^/]+)(?:/([a-z-]+)(?:/([^/]+)(?:/(.*))?)?)?", path)
        if found is None:
            raise HubError(404, f"No such endpoint: {path}")
        verb, revision, below = found[3] or "revision", unquote(found[4] or "main"), unquote(found[5] or "")
        writes = verb in ("preupload", "commit", "branch", "tag", "settings", "xet-write-token")
        return self.route_repo(self.repo(found[1], found[2], write=writes), verb, revision, below, sent)

    def route_repo(self, repo: Repo, verb: str, revision: str, below: str, sent: dict[str, Any]) -> None:
        if verb == "revision":
            return self.describe(repo, revision)
        if verb == "refs":
            branches, tags = self.list_refs(repo.branches, "heads"), self.list_refs(repo.tags, "tags")
            return self.reply(200, {"branches": branches, "converts": [], "tags": tags})
        if verb == "commits":
            line = [repo.at(revision)[0]]
            while older := repo.commits[line[-1]]["parents"]:
                line += older
            return self.reply(200, [{k: v for k, v in repo.commits[s].items() if k != "files"} for s in line])
        if verb == "tree":
            return self.tree(repo, revision, below, None)
        if verb == "paths-info":
            return self.tree(repo, revision, below, (sent or parse_qs(self.body.decode())).get("paths", []))
        if verb in ("branch", "tag"):
            return self.change_refs(repo, verb, revision, sent)
        if verb == "settings":
            visibility = sent.get("visibility", "private" if sent.get("private", repo.private) else "")
            repo.private, repo.gated = visibility == "private", sent.get("gated", repo.gated)
            return self.reply(200, {"private": repo.private})
        if verb in ("xet-read-token", "xet-write-token"):
            # local:// makes the stock hf_xet keep its store in a folder.
            expiry, cas = int(time.time()) + 3600, f"local://{self.hub.root}/cas"
            headers = {"X-Xet-Access-Token": "x", "X-Xet-Token-Expiration": str(expiry), "X-Xet-Cas-Url": cas}
            return self.reply(200, {"accessToken": "x", "exp": expiry, "casUrl": cas}, headers)
        if verb == "preupload":
            return self.reply(200, {"files": [self.upload_mode(repo, revision, file) for file in sent["files"]]})
        if verb == "commit":
            return self.commit(repo, revision)
        raise HubError(404, f"No such endpoint: {self.path}")

    # ---- repositories ----
    def create_or_delete(self, create: bool, sent: dict[str, Any]) -> None:
        user, kind = self.user(True), sent.get("type") or "model"
        repo_id = f"{sent.get('organization') or user}/{sent['name']}"
        need(
            repo_id.split("/")[0] == user,
            403,
            f"You don't have the rights to create a {kind} under this namespace",
        )
        with self.hub.lock:
            old = self.hub.repos.pop((kind, repo_id), None)
            if create:
                self.hub.repos[kind, repo_id] = old or Repo(kind, repo_id, sent.get("visibility") == "private")
        answer = {"url": self.web_url(kind, repo_id), "name": repo_id, "error": "You already created this repo"}
        self.reply(409 if old and create else 200, answer)

    def describe(self, repo: Repo, revision: str) -> None:
        sha, files = repo.at(revision)
        blobs = "blobs" in self.query
        siblings = [
            {"rfilename": path} | ({"size": file["size"], "blobId": file["oid"]} if blobs else {})
            for path, file in sorted(files.items())
        ]
        answer = {
            "_id": sha[:24],
            "id": repo.id,
            "modelId": repo.id,
            "author": repo.id.split("/")[0],
            "sha": sha,
            "private": repo.private,
            "gated": repo.gated and "manual",
            "disabled": False,
            "lastModified": repo.commits[sha]["date"],
            "createdAt": repo.created,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": siblings,
        }
        self.reply(200, answer)

    def list_refs(self, refs: dict[str, str], kind: str) -> list[dict[str, str]]:
        return [{"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha} for name, sha in refs.items()]

    def change_refs(self, repo: Repo, verb: str, revision: str, sent: dict[str, Any]) -> None:
        refs = repo.branches if verb == "branch" else repo.tags
        if self.command == "DELETE":
            return self.reply(200, {"gone": refs.pop(revision, None)})
        if verb == "branch":
            name, start = revision, sent.get("startingPoint", "main")
        else:
            name, start = sent["tag"], revision
        need(name not in refs, 409, f"Reference already exists: {name}")
        return self.reply(200, {"at": refs.setdefault(name, repo.at(start)[0])})

    def tree(self, repo: Repo, revision: str, below: str, paths: list[str] | None) -> None:
        """The entries below a folder, or those named in `paths`."""
        sha, files = repo.at(revision)
        last = {"lastCommit": {key: repo.commits[sha][key] for key in ("id", "title", "date")}}
        more = last if "true" in self.query.get("expand", ()) else {}
        folders = {"/".join(path.split("/")[:i]) for path in files for i in range(1, path.count("/") + 1)}
        deep, prefix = "true" in self.query.get("recursive", ()), below + "/" if below else ""

        def describe(path: str) -> dict[str, Any]:
            if path in folders:
                return {"type": "directory", "path": path, "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0}
            file = files[path]
            entry = {"type": "file", "path": path, "oid": file["oid"], "size": file["size"], **more}
            if "lfs" in file:
                entry["lfs"] = {"oid": file["lfs"], "size": file["size"], "pointerSize": 134}
            return entry | ({"xetHash": file["xet"]} if "xet" in file else {})

        def is_wanted(path: str) -> bool:
            if paths is not None:
                return path in paths
            return path.startswith(prefix) and (deep or "/" not in path[len(prefix) :])

        there = paths is not None or not below or below in folders
        need(there, 404, f"{below} does not exist on this revision", "EntryNotFound")
        self.reply(200, [describe(path) for path in sorted(folders | set(files)) if is_wanted(path)])

    # ---- uploads ----
    def upload_mode(self, repo: Repo, revision: str, file: dict[str, Any]) -> dict[str, Any]:
        path, sample = file["path"], base64.b64decode(file.get("sample", ""))
        large = file["size"] > MAX_REGULAR_SIZE or path.endswith(LFS_SUFFIXES) or b"\0" in sample
        old = repo.at(revision)[1].get(path, {})
        mode = "lfs" if large else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": old.get("lfs", old.get("oid"))}

    def commit(self, repo: Repo, branch: str) -> None:
        operations = [(line["key"], line["value"]) for line in map(json.loads, self.body.splitlines())]
        with self.hub.lock:
            need(branch in repo.branches, 404, f"Invalid rev id: {branch}", "RevisionNotFound")
            head, files, header = repo.branches[branch], dict(repo.at(branch)[1]), dict(operations)["header"]
            is_next = header.get("parentCommit", head) == head
            need(is_next, 412, "A commit has happened since. Please refresh and try again.")
            for key, value in operations:
                if key == "file":
                    data = base64.b64decode(value["content"])
                    if value["path"] in self.hub.damages:
                        self.hub.damages.remove(value["path"])
                        data += b" "
                    files[value["path"]] = regular_file(data)
                elif key == "lfsFile":
                    files[value["path"]] = self.hub.large_file(value["oid"])
                elif key.startswith("deleted"):
                    folder = value["path"].rstrip("/") + "/" if key == "deletedFolder" else None
                    gone = [p for p in files if p == value["path"] or (folder and p.startswith(folder))]
                    files = {path: file for path, file in files.items() if path not in gone}
            sha = repo.write(branch, files, header["summary"], header.get("description", ""), self.user())
        url = f"{self.web_url(repo.kind, repo.id)}/commit/{sha}"
        self.reply(200, {"success": True, "commitOid": sha, "commitUrl": url})

    def lfs_action(self, oid: str, size: int) -> dict[str, Any]:
        """Where a large file is to be sent; nowhere when it is here."""
        if self.hub.lfs(oid).exists():
            return {"oid": oid, "size": size}
        url = f"{self.hub.url}/_lfs/{oid}"
        return {"oid": oid, "size": size, "actions": {"upload": {"href": url}, "verify": {"href": url + "/verify"}}}

    def lfs_object(self, oid: str) -> None:
        path = self.hub.lfs(oid)
        if self.command == "PUT":
            need(hashlib.sha256(self.body).hexdigest() == oid, 422, "the upload's sha256 is not its oid")
            path.write_bytes(self.body)
        need(path.exists(), 404, "no such object")
        if self.command in ("GET", "HEAD"):
            self.send_bytes(path.read_bytes(), {"ETag": f'"{oid}"'})
        else:
            self.reply(200, {})

    # ---- downloads ----
    def resolve(self, repo: Repo, revision: str, path: str) -> None:
        sha, files = repo.at(revision)
        file, headers = files.get(path), {"X-Repo-Commit": sha}
        if file is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            return self.reply(404, b"Entry not found", headers)
        if "lfs" not in file:
            return self.send_bytes(file["data"], {**headers, "ETag": f'"{file["oid"]}"'})
        # Another host: the client stops following its HEAD here, and sends it no token.
        cdn = self.hub.url.replace("127.0.0.1", "localhost")
        headers |= {"X-Linked-Size": str(file["size"]), "X-Linked-Etag": f'"{file["lfs"]}"'}
        headers["Location"] = f"{cdn}/_lfs/{file['lfs']}"
        if "xet" in file:
            token_url = f"{self.hub.url}/api/{repo.kind}s/{repo.id}/xet-read-token/{sha}"
            headers |= {"X-Xet-Hash": file["xet"], "Link": f'<{token_url}>; rel="xet-auth"'}
        return self.reply(302, b"", headers)


if __name__ == "__main__":
    log_path = sys.argv[3] if len(sys.argv) > 3 else None
    print(LoopbackHub(sys.argv[2], log_path=log_path).start(int(sys.argv[1])).url, flush=True)
    threading.Event().wait()
