"""The rules for what a CRE workflow may reach."""

from sluice.checks.forms import check_form, check_key, invalid
from sluice.spec import CreSecretSpec, CreSpec

_PART = "[a-z0-9_]([-a-z0-9_]*[a-z0-9_])?"
# A name, all below a name, or an address: what a URL has for a host, in lower case.
_HOST = rf"\.?{_PART}(\.{_PART})*|\[[0-9a-f:.]+\]"
_WORD = "[-._A-Za-z0-9]+"


def check_cre(where: str, cre: CreSpec) -> None:
    if cre.http and cre.http.allow_hosts is not None:
        _check_hosts(f"{where}.http.allowHosts", cre.http.allow_hosts)
    for i, secret in enumerate(cre.secrets):
        _check_secret(f"{where}.secrets[{i}]", secret)
    names = [(secret.namespace, secret.id) for secret in cre.secrets]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise invalid(
                f'{where}.secrets[{i}].id: "{name[1]}" stands twice in namespace "{name[0]}"; '
                "rename one"
            )


def _check_hosts(where: str, hosts: tuple[str, ...]) -> None:
    if not hosts:
        raise invalid(f"{where}: is empty; list at least one, or leave it out for every host")
    what = "host; write for example api.example.com, or .example.com for all below it"
    for i, host in enumerate(hosts):
        check_form(f"{where}[{i}]", host, _HOST, what)


def _check_secret(where: str, secret: CreSecretSpec) -> None:
    what = "id of a secret; write letters, digits, -, _ and ."
    check_form(f"{where}.id", secret.id, _WORD, what)
    what = "namespace of secrets; write letters, digits, -, _ and ."
    check_form(f"{where}.namespace", secret.namespace, _WORD, what)
    check_key(f"{where}.secretKeyRef", secret.secret_key_ref, "Secret")
