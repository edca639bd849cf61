"""Every endpoint × every key × every way to set keys."""

import shutil

import pytest
from fastapi.testclient import TestClient

from lsr.service.app import create_app
from lsr.service.settings import Settings

READ, ADMIN = "read-key-0123456789", "admin-key-0123456789"
GIVEN = {"none": None, "wrong": "wrong-key-0123456789", "read": READ, "admin": ADMIN}
SET = {
    "nothing": {},
    "read": {"read_key": READ},
    "admin": {"admin_key": ADMIN},
    "both": {"read_key": READ, "admin_key": ADMIN},
}
# The key that each endpoint needs. `test_no_endpoint_is_forgotten` fails until a new one is here.
ENDPOINTS = {
    ("GET", "/healthz"): "open",
    ("GET", "/readyz"): "open",
    ("GET", "/metrics"): "read",
    ("GET", "/indexes"): "read",
    ("GET", "/indexes/{name}"): "read",
    ("POST", "/indexes/{name}/search"): "read",
    ("POST", "/indexes/{name}/search/batch"): "read",
    ("POST", "/indexes/{name}/explain"): "read",
    ("POST", "/indexes/{name}/expand"): "read",
    ("GET", "/indexes/{name}/documents/{id}"): "read",
    ("PUT", "/indexes/{name}/documents/{id}"): "admin",
    ("PATCH", "/indexes/{name}/documents/{id}"): "admin",
    ("DELETE", "/indexes/{name}/documents/{id}"): "admin",
    ("POST", "/indexes/{name}/documents"): "admin",
    ("POST", "/indexes/{name}/delete"): "admin",
    ("POST", "/admin/reload"): "admin",
}
# Paths that are not in the OpenAPI document.
OTHERS = {
    ("GET", "/"): "open",
    ("GET", "/page/page.js"): "open",
    ("GET", "/page/none.js"): "open",
    ("GET", "/openapi.json"): "open",
    # Only the admin key may learn that a path does not exist.
    ("GET", "/docs"): "admin",
    ("GET", "/none"): "admin",
    ("POST", "/none"): "admin",
    ("PUT", "/indexes"): "admin",
    ("PATCH", "/indexes/{name}"): "admin",
    ("OPTIONS", "/indexes/{name}/search"): "admin",
    ("POST", "/healthz"): "admin",
    ("GET", "/indexes/"): "admin",
    ("POST", "//indexes/{name}/search"): "admin",
    ("POST", "/indexes/{name}/search/"): "admin",
    ("DELETE", "/indexes/{name}"): "admin",
    ("GET", "/healthz/../admin/reload"): "admin",
    ("POST", "/page/../admin/reload"): "admin",
}
ALL = ENDPOINTS | OTHERS


def expected(need, keys, given):
    """Return 401, 403, or None if the request reaches the app."""
    if keys == "nothing" or need == "open":
        return None
    if need == "admin" and keys == "read":
        return 403  # with any key
    valid = {"read": ["read"], "admin": ["admin"], "both": ["read", "admin"]}[keys]
    if given not in valid:
        return 401
    return 403 if need == "admin" and given == "read" else None


@pytest.fixture(scope="module", params=SET)
def served(request, built, tmp_path_factory):
    """Which keys are set, and a client of such a service."""
    index = shutil.copytree(built, tmp_path_factory.mktemp("auth") / "wings")
    with TestClient(create_app([index], Settings(**SET[request.param]))) as client:
        yield request.param, client


def test_no_endpoint_is_forgotten(built):
    document = create_app([built], Settings()).openapi()
    found = {
        (method.upper(), path)
        for path, operations in document["paths"].items()
        for method in operations
    }
    assert found - OTHERS.keys() == ENDPOINTS.keys()


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("header", ["Authorization", "X-API-Key"])
def test_matrix(served, given, header):
    keys, client = served
    headers = {}
    if key := GIVEN[given]:
        headers[header] = f"Bearer {key}" if header == "Authorization" else key
    for (method, path), need in ALL.items():
        url = path.format(name="wings", id="never-written")
        answer = client.request(method, url, headers=headers, follow_redirects=False)
        refusal = expected(need, keys, given)
        place = f"{method} {path}: {answer.status_code} {answer.text[:200]}"
        if refusal is None:
            assert answer.status_code not in (401, 403), place
            assert answer.status_code < 500, place
        else:
            assert answer.status_code == refusal, place
            assert answer.json().keys() == {"error", "request_id"}, place
            assert answer.json()["request_id"] == answer.headers["X-Request-ID"], place
            assert (answer.headers.get("WWW-Authenticate") == "Bearer") == (refusal == 401), place
        assert answer.headers["X-Request-ID"], place


def test_what_a_key_opens_works(served):
    """The matrix above checks who is refused; this test checks that others are served."""
    keys, client = served
    headers = {"X-API-Key": ADMIN if keys in ("admin", "both") else READ}
    body = {"query": "heat flow"}
    for method, path, status in [
        ("GET", "/healthz", 200),
        ("GET", "/readyz", 200),
        ("GET", "/metrics", 200),
        ("GET", "/indexes", 200),
        ("POST", "/indexes/wings/search", 200),
        ("GET", "/indexes/wings/documents/d1", 200),
        ("POST", "/admin/reload", 403 if keys == "read" else 200),
    ]:
        json = body if path.endswith("search") else None
        assert client.request(method, path, headers=headers, json=json).status_code == status, path


def test_no_key_in_any_answer(served):
    """Not even in the error for a wrong key."""
    _, client = served
    for key in GIVEN.values():
        for method, path in ALL:
            url = path.format(name="wings", id="never-written")
            answer = client.request(method, url, headers={"X-API-Key": key or ""})
            told = answer.text + str(dict(answer.headers))
            assert READ not in told and ADMIN not in told
            assert not key or key not in told
