"""A hub on this machine: the part of the server of the Hugging Face Hub that sharing needs."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """A repository: the commits of its branches, and the files of its commits."""

    private: bool
    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, files: Files) -> str:
        before = self.commits.get(self.branches.get(branch, ""), {})
        name = hashlib.sha1(f"{branch} {len(self.commits)}".encode()).hexdigest()
        self.commits[name] = {**before, **files}
        self.branches[branch] = name
        return name


@dataclass
class Hub:
    """The state of the hub, and what it did.

    Attributes:
        token: The token that may write. Any other is refused.
        refusal: Text with which a token is refused. `{}` stands for what the client sent.
        requests: Method and path of every request.
        unknown: Those of them that the hub does not know.
        broken: Whether every request fails, with what the client sent in the answer.
        refused_paths: Words in the paths of requests that fail.
        names_commits: Whether answers name a commit, as only a hub does.
    """

    address: str = ""
    token: str = "hf_theSecretOfThisTest"
    refusal: str = "Invalid credentials: {}"
    repositories: dict[str, Repository] = field(default_factory=dict)
    blobs: Files = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    broken: bool = False
    refused_paths: tuple[str, ...] = ()
    names_commits: bool = True

    def add(self, name: str, files: Files, *, branch: str = "main", private: bool = False) -> str:
        """Commit files to a repository, which is created if it is missing, and name the commit."""
        repository = self.repositories.setdefault(name, Repository(private))
        return repository.commit(branch, files)

    def files(self, name: str, branch: str = "main") -> Files:
        repository = self.repositories[name]
        return repository.commits[repository.branches[branch]]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a hub on a free port."""
    hub = Hub()

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Hub

    def log_message(self, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PUT(self) -> None:
        self.answer()

    def answer(self) -> None:
        hub = self.state
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = [unquote(part) for part in urlsplit(self.path).path.strip("/").split("/")]
        hub.requests.append(f"{self.command} {self.path}")
        if hub.broken or any(word in parts for word in hub.refused_paths):
            return self.fail(500, "", f"broken: {self.headers.get('Authorization')}")
        is_write = self.command in ("POST", "PUT") and parts[0] != "lfs"
        given = self.headers.get("Authorization", "nothing")
        if is_write and given != f"Bearer {hub.token}":
            return self.fail(401, "", hub.refusal.format(given))

        match self.command, *parts:
            case "HEAD" | "GET", owner, name, "resolve", revision, *path:
                self.resolve(f"{owner}/{name}", revision, "/".join(path))
            case "POST", "api", "repos", "create":
                self.create()
            case "GET", "api", "agent-harnesses":
                self.reply_json({})
            case "POST", "api", "validate-yaml":
                self.reply_json({"warnings": [], "errors": []})
            case "GET", "api", "models", owner, name:
                self.describe(f"{owner}/{name}")
            case "POST", "api", "models", owner, name, "branch", branch:
                repository = hub.repositories[f"{owner}/{name}"]
                if branch in repository.branches:
                    return self.fail(409, "", "Branch exists already")
                main = repository.branches.get("main")
                repository.branches[branch] = main or repository.commit(branch, {})
                self.reply_json({})
            case "POST", "api", "models", _, _, "preupload", _:
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith("tensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(self.body)["files"]
                ]
                self.reply_json({"files": files})
            case "POST", _, _, "info", "lfs", "objects", "batch":
                objects = [
                    {**item, "actions": {"upload": {"href": f"{hub.address}/lfs/{item['oid']}"}}}
                    for item in json.loads(self.body)["objects"]
                ]
                self.reply_json({"transfer": "basic", "objects": objects})
            case "PUT", "lfs", oid:
                assert hashlib.sha256(self.body).hexdigest() == oid
                hub.blobs[oid] = self.body
                self.reply(200, b"")
            case "POST", "api", "models", owner, name, "commit", branch:
                self.commit(f"{owner}/{name}", branch)
            case _:
                hub.unknown.append(f"{self.command} {self.path}")
                self.fail(404, "", "unknown request")
        return None

    def resolve(self, name: str, revision: str, path: str) -> None:
        repository = self.state.repositories.get(name)
        if repository is None:
            return self.fail(404, "RepoNotFound", "Repository not found")
        given = self.headers.get("Authorization")
        if repository.private and given != f"Bearer {self.state.token}":
            return self.fail(401, "RepoNotFound", f"Invalid username or password {given}")
        commit = repository.branches.get(revision, revision)
        if commit not in repository.commits:
            return self.fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        content = repository.commits[commit].get(path)
        if content is None:
            return self.fail(404, "EntryNotFound", "Entry not found", commit=commit)
        etag = hashlib.sha256(content).hexdigest()
        headers = {"X-Repo-Commit": commit} if self.state.names_commits else {}
        self.reply(200, content, {**headers, "ETag": f'"{etag}"'})
        return None

    def create(self) -> None:
        wanted = json.loads(self.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if name in self.state.repositories:
            return self.reply_json(
                {
                    "error": "You already created this model repo",
                    "url": f"{self.state.address}/{name}",
                },
                status=409,
            )
        private = wanted.get("visibility") == "private" or wanted.get("private") is True
        self.state.repositories[name] = Repository(private)
        self.reply_json({"url": f"{self.state.address}/{name}"})
        return None

    def describe(self, name: str) -> None:
        repository = self.state.repositories.get(name)
        if repository is None:
            return self.fail(404, "RepoNotFound", "Repository not found")
        self.reply_json({"id": name, "private": repository.private, "tags": [], "downloads": 0})
        return None

    def commit(self, name: str, branch: str) -> None:
        files: Files = {}
        for line in self.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            if item["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif item["key"] == "lfsFile":
                files[value["path"]] = self.state.blobs[value["oid"]]
        oid = self.state.repositories[name].commit(branch, files)
        url = f"{self.state.address}/{name}/commit/{oid}"
        self.reply_json({"commitUrl": url, "commitOid": oid, "success": True})

    def fail(self, status: int, code: str, message: str, *, commit: str = "") -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        headers |= {"X-Error-Code": code} if code else {}
        headers |= {"X-Repo-Commit": commit} if commit else {}
        self.reply(status, json.dumps({"error": message}).encode(), headers)

    def reply_json(self, content: object, *, status: int = 200) -> None:
        self.reply(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
