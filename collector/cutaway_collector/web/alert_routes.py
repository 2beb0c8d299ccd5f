"""The routes of alerts: the page, its JSON twin, muting by a form, and what `cutaway alerts` asks of a running collector, as JSON.

    GET  /alerts, /alerts.json            parameters: state, rule
    GET  /alerts/test, /alerts/test.json  parameters: rule, tenant, since: what it would have said
    POST /alerts/mute                     form: rule, tenant, for (1h, 8h, 1d, 7d; off unmutes)
    GET  /admin/alerts.json               everything, of every tenant
    POST /admin/alerts-apply.json         {"document", "prune", "dry_run"}
    POST /admin/alerts-remove.json        {"names", "tenant"}
    POST /admin/alerts-mute.json          {"rule", "tenant", "until_ns"}
    POST /admin/alerts-test.json          {"rule": name or definition, "tenant", "start_ns", "end_ns", "late"}

Reading needs the scope read, muting admin. Definitions may name any tenant and where secrets lie, so the key that changes them
must be of no tenant. Not the doing: that is the alerts flow's desk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from flask import Flask, Response, g, redirect, request
from werkzeug.wrappers import Response as AnyResponse

from cutaway_collector.alerts import Desk, RuleError
from cutaway_collector.contracts import Store
from cutaway_collector.errors import MalformedRequest, PermissionDenied
from cutaway_collector.web import admin, times
from cutaway_collector.web.gate import may
from cutaway_collector.web.pages import alerts, backtest
from cutaway_collector.web.site import Site

LIST: Final = "/admin/alerts.json"
APPLY: Final = "/admin/alerts-apply.json"
REMOVE: Final = "/admin/alerts-remove.json"
MUTE: Final = "/admin/alerts-mute.json"
TEST: Final = "/admin/alerts-test.json"
DOCUMENT_BYTES_MAX: Final = 4 * 1024 * 1024
_KINDS: Final[dict[str, dict[str, tuple[type, ...]]]] = {
    APPLY: {"document": (dict,), "prune": (bool,), "dry_run": (bool,)},
    REMOVE: {"names": (list,), "tenant": (str,)},
    MUTE: {"rule": (str,), "tenant": (str,), "until_ns": (int,)},
    TEST: {"rule": (str, dict), "tenant": (str,), "start_ns": (int,), "end_ns": (int,), "late": (bool,)},
}
_DEFAULTS: Final[dict[str, Any]] = {"prune": False, "dry_run": False, "tenant": "", "late": False}


def routes(app: Flask, site: Site, store: Store, render: Callable[..., Response], answer: Callable[..., Response]) -> None:
    """Adds them. store: the one that may be written; the pages read the visitor's view of it."""
    desk = Desk(store, site.settings)

    @app.get("/alerts")
    def alerts_page() -> Response:
        return render("alerts.html", alerts.page(site, request.args, g.caller.tenant, may_mute=may("edit")))

    @app.get("/alerts.json")
    def alerts_twin() -> Response:
        return answer(alerts.twin(site, request.args))

    @app.get("/alerts/test")
    def alerts_backtest_page() -> Response:
        return render("backtest.html", backtest.page(site, desk, request.args, g.caller.tenant))

    @app.get("/alerts/test.json")
    def alerts_backtest_twin() -> Response:
        return answer(backtest.twin(site, desk, request.args, g.caller.tenant))

    @app.post("/alerts/mute")
    def alerts_mute() -> AnyResponse:
        mine, tenant = g.caller.tenant, request.form.get("tenant", "")
        if mine and tenant != mine:
            raise PermissionDenied("a key of a tenant mutes rules of that tenant alone")
        seconds = alerts.MUTES.get(request.form.get("for", ""))
        if seconds is None:
            raise MalformedRequest(f"for is one of {', '.join(alerts.MUTES)}")
        now_ns = site.now_ns()
        try:
            desk.mute(tenant, request.form.get("rule", ""), now_ns + seconds * times.NS if seconds else 0, now_ns=now_ns)
        except RuleError as error:
            raise MalformedRequest(str(error)) from None
        return redirect("/alerts", 303)

    @app.get(LIST)
    def alerts_list() -> Response:
        _ours()
        return answer(desk.listing(site.now_ns()))

    _changes(app, desk, site, answer)


def _changes(app: Flask, desk: Desk, site: Site, answer: Callable[..., Response]) -> None:
    @app.post(APPLY)
    def alerts_apply() -> Response:
        asked = _asked(APPLY)
        return answer(_done(lambda: desk.apply(asked["document"], prune=asked["prune"], dry_run=asked["dry_run"])))

    @app.post(REMOVE)
    def alerts_remove() -> Response:
        asked = _asked(REMOVE)
        if not all(isinstance(name, str) for name in asked["names"]):
            raise MalformedRequest("names are names of rules and channels")
        return answer(_done(lambda: desk.remove(asked["tenant"], asked["names"])))

    @app.post(MUTE)
    def alerts_mute_until() -> Response:
        asked = _asked(MUTE)
        return answer(_done(lambda: desk.mute(asked["tenant"], asked["rule"], asked["until_ns"], now_ns=site.now_ns())))

    @app.post(TEST)
    def alerts_test() -> Response:
        asked = _asked(TEST)
        return answer(_done(lambda: desk.test(asked["rule"], asked["start_ns"], asked["end_ns"], tenant=asked["tenant"],
                                              late=asked["late"])))


def _ours() -> None:
    if g.caller.tenant:
        raise PermissionDenied("alert rules may watch every tenant: use an admin key that is of none")


def _asked(route: str) -> dict[str, Any]:
    """The body, each part of its kind. Raises PermissionDenied, MalformedRequest."""
    _ours()
    request.max_content_length = DOCUMENT_BYTES_MAX
    body, kinds = admin.body(), _KINDS[route]
    unknown = [name for name in body if name not in kinds]
    if unknown:
        raise MalformedRequest(f"there is no {unknown[0][:40]!r}: there are {', '.join(kinds)}")
    asked: dict[str, Any] = {name: body.get(name, _DEFAULTS.get(name)) for name in kinds}
    for name, kind in kinds.items():
        if type(asked[name]) not in kind or (kind == (int,) and not 0 <= asked[name] < 2**63):
            raise MalformedRequest(f"{name} is {' or '.join(one.__name__ for one in kind)}")
    return asked


def _done(action: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return action()
    except RuleError as error:
        raise MalformedRequest(str(error)) from None
