"""The rules for what starts executions, one kind after another."""

import json
import re
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from sluice.checks.forms import (
    DOTTED,
    LABEL,
    check_bytes,
    check_choices,
    check_duration,
    check_form,
    check_key,
    check_one_of,
    invalid,
)
from sluice.errors import WorkflowInvalid
from sluice.quantities import quantity
from sluice.reasons import Reason
from sluice.settings import Settings
from sluice.spec import CronSpec, HttpAuth, HttpSpec, JwtKey, KubernetesSpec, TriggerSpec

# What openssl writes for a public key of P-256: the curve is in its first 26 bytes, and the
# point, not compressed, is the rest. Whoever verifies with it finds out whether it is on the curve.
_PEM_P256 = (
    " *-----BEGIN PUBLIC KEY-----MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE[A-Za-z0-9+/]{86}=="
    "-----END PUBLIC KEY----- *"
)
_LABEL_KEY = "([a-z0-9][-.a-z0-9]*/)?[A-Za-z0-9][-._A-Za-z0-9]*"
_LABEL_VALUE = "[-._A-Za-z0-9]*"
_LABEL_TERM = (
    f" *(! *{_LABEL_KEY}|{_LABEL_KEY}( *(==?|!=|<|>) *{_LABEL_VALUE}"
    rf"| +(in|notin) *\( *{_LABEL_VALUE}( *, *{_LABEL_VALUE})* *\))?) *"
)
_LABEL_SELECTOR = f"{_LABEL_TERM}(,{_LABEL_TERM})*"
_FIELD_TERM = r"[A-Za-z][.A-Za-z0-9]*(==?|!=)([^\\,=]|\\[\\,=])*"
_FIELD_SELECTOR = f"{_FIELD_TERM}(,{_FIELD_TERM})*"


def check_trigger(where: str, trigger: TriggerSpec, settings: Settings) -> None:
    what = "name of a trigger; write lower-case letters, digits and -"
    check_form(f"{where}.name", trigger.name, LABEL, what)
    kinds: dict[str, object | None] = {
        "cron": trigger.cron, "manual": trigger.manual, "startup": trigger.startup,
        "http": trigger.http, "kubernetes": trigger.kubernetes,
    }  # fmt: skip
    check_one_of(where, kinds, "(manual: {} is enough)")
    own = trigger.cron or trigger.manual or trigger.startup
    if own and len(json.dumps(own.data).encode()) > settings.event_bytes_max:
        raise invalid(f"{where}: its data has more than {settings.event_bytes_max:,} bytes")
    if trigger.cron:
        _check_cron(f"{where}.cron", trigger.cron)
    if trigger.http:
        _check_http(f"{where}.http", trigger.http, settings)
    if trigger.kubernetes:
        _check_kubernetes(f"{where}.kubernetes", trigger.kubernetes)


def _check_cron(where: str, cron: CronSpec) -> None:
    try:
        ZoneInfo(cron.time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise WorkflowInvalid(
            Reason.INVALID_SCHEDULE,
            f'{where}.timeZone: "{cron.time_zone}" is no IANA time zone; write for example '
            "Europe/Zurich",
        ) from None
    if problem := _schedule_problem(cron):
        raise WorkflowInvalid(
            Reason.INVALID_SCHEDULE, f'{where}.schedule: "{cron.schedule}" {problem}'
        )
    check_duration(f"{where}.jitter", cron.jitter, "1h", zero=True)


def _schedule_problem(cron: CronSpec) -> str | None:
    """Say what is wrong with a schedule in a good time zone, or None."""
    count = len(cron.schedule.split())
    if cron.schedule.startswith("@"):
        return "is a nickname; write the fields out, for example 0 0 * * * for once a day"
    if count not in {5, 6}:
        return (
            f"has {count} fields; write 5 (minute hour day month weekday) or 6 with seconds first"
        )
    if re.search(r"[^0-9A-Za-z*/,# \t-]|[0-9]{3}", cron.schedule):
        return (
            "holds what no schedule does; write numbers of one or two digits, names such as MON "
            "or JAN, and * , - / #"
        )
    try:
        next(CronSim(cron.schedule, datetime.now(ZoneInfo(cron.time_zone))))
    except CronSimError as e:
        return f"has a {str(e).lower()}"
    except StopIteration:
        return "never falls due"
    return None


def _check_http(where: str, http: HttpSpec, settings: Settings) -> None:
    _check_auth(f"{where}.auth", http.auth)
    check_bytes(f"{where}.body", http.body, "16Mi")
    if quantity(http.body) > settings.event_bytes_max:
        raise invalid(
            f"{where}.body: {quantity(http.body):,} bytes, but this operator takes events of at "
            f"most {settings.event_bytes_max:,} (event_bytes_max)"
        )


def _check_auth(where: str, auth: HttpAuth) -> None:
    ways: dict[str, object | None] = {
        "bearer": auth.bearer, "hmac": auth.hmac, "jwt": auth.jwt, "anonymous": auth.anonymous,
    }  # fmt: skip
    way = check_one_of(where, ways, "(anonymous: {} lets everybody in)")
    if auth.secret_key_ref:
        check_key(f"{where}.{way}.secretKeyRef", auth.secret_key_ref, "Secret")
    if auth.hmac:
        what = "name of a header; write letters, digits and -"
        check_form(f"{where}.hmac.header", auth.hmac.header, "[-A-Za-z0-9]+", what)
    if auth.jwt:
        _check_jwt_keys(f"{where}.jwt.keys", auth.jwt.keys)


def _check_jwt_keys(where: str, keys: tuple[JwtKey, ...]) -> None:
    if not keys:
        raise invalid(f"{where}: names no key; list at least one")
    for i, key in enumerate(keys):
        one_line = key.pem.replace("\r", "").replace("\n", "")
        if not re.fullmatch(_PEM_P256, one_line, re.ASCII):
            raise invalid(
                f"{where}[{i}].pem: is no PEM public key of P-256; write what `openssl ec -pubout` "
                "prints for a key of prime256v1"
            )


def _check_kubernetes(where: str, watch: KubernetesSpec) -> None:
    what = "version of an API; write for example v1 or apps/v1"
    form = rf"({DOTTED}/)?[a-z]([-a-z0-9]*[a-z0-9])?"
    check_form(f"{where}.apiVersion", watch.api_version, form, what)
    what = "kind of object; write for example ConfigMap"
    check_form(f"{where}.kind", watch.kind, "[A-Z]([-A-Za-z0-9]*[A-Za-z0-9])?", what)
    if (watch.api_version, watch.kind) == ("v1", "Secret"):
        raise invalid(
            f"{where}.kind: Secrets are not watched, because events are kept and shown; watch "
            "another kind"
        )
    if watch.namespace is not None:
        what = "name of a namespace; write lower-case letters, digits and -"
        check_form(f"{where}.namespace", watch.namespace, LABEL, what)
    if watch.label_selector is not None:
        what = "selector of labels; write for example app=web,tier in (a, b),!old"
        check_form(f"{where}.labelSelector", watch.label_selector, _LABEL_SELECTOR, what)
    if watch.field_selector is not None:
        what = "selector of fields; write for example metadata.name=settings"
        check_form(f"{where}.fieldSelector", watch.field_selector, _FIELD_SELECTOR, what)
    check_choices(f"{where}.on", watch.on)
