"""The commands that ask a running operator: all through its HTTP port, from inside its pod.

Apart from cli.py, which had no room; and they have one option, and one way to fail, in common.
"""

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sluice.options import namespace_name, workflow_name

if TYPE_CHECKING:
    from sluice.adapters.remote import Remote
    from sluice.workflow import WorkflowKey

_F = TypeVar("_F", bound=Callable[..., Any])
_T = TypeVar("_T")
_LIMIT, _LIMIT_MAX = 20, 1000
_LOGS = 5

_url_option = click.option(
    "--url", default="http://127.0.0.1:8080", show_default=True, envvar="SLUICE_URL",
    show_envvar=True, help="Where the operator's HTTP port is.",
)  # fmt: skip
_namespace_option = click.option(
    "-n", "--namespace", callback=namespace_name, help="Of the current context by default."
)


def _limit_option(default: int) -> Callable[[_F], _F]:
    return click.option(
        "--limit", default=default, show_default=True, type=click.IntRange(1, _LIMIT_MAX),
        metavar="N", help="The last N.",
    )  # fmt: skip


@click.command(short_help="Show memory, the rollout and what failed, of a running operator.")
@_url_option
@click.option("--output", type=click.Choice(["text", "json"]), default="text", show_default=True)
def status(url: str, output: str) -> None:
    """Show memory, the rollout, and what failed, of a running operator.

    It answers inside its pod alone: kubectl exec, or a kubectl port-forward to it.
    """
    from sluice import overview

    told = _ask(url, lambda remote: remote.status())
    click.echo(json.dumps(told, indent=2) if output == "json" else overview.as_text(told))


@click.command(no_args_is_help=True, short_help="List the last executions of a workflow.")
@click.argument("name", callback=workflow_name)
@_namespace_option
@_url_option
@_limit_option(_LIMIT)
@click.option(
    "-o", "--output", type=click.Choice(["table", "json"]), default="table", show_default=True
)
def executions(name: str, namespace: str | None, url: str, limit: int, output: str) -> None:
    """List the last executions of the workflow NAME, the newest first; what waits and runs too.

    The operator answers inside its pod alone: kubectl exec, or a kubectl port-forward to it.
    """
    from sluice.adapters.terminal import executions_table

    key = _key(name, namespace)
    told = _ask(url, lambda remote: remote.executions(key, limit))
    if output == "json":
        click.echo(json.dumps(told, indent=2))
    elif told:
        executions_table(told)
    else:
        click.echo(f"{key} has no executions yet", err=True)


@click.command(no_args_is_help=True, short_help="Show what executions of a workflow have logged.")
@click.argument("name", callback=workflow_name)
@_namespace_option
@_url_option
@_limit_option(_LOGS)
@click.option("-f", "--follow", is_flag=True, help="Go on with each that ends, until Ctrl-C.")
@click.option("--id", "id_", metavar="ID", help="Of this one alone; with -f, once it is over.")
def logs(
    name: str, namespace: str | None, url: str, limit: int, follow: bool, id_: str | None
) -> None:
    """Show what the last executions of the workflow NAME wrote to stderr, the oldest first.

    Of each its end is kept, as much as the workflow's limits.log. One that runs has none yet.
    """
    from sluice.adapters.terminal import log_lines

    key = _key(name, namespace)

    async def show(remote: "Remote") -> None:
        if id_ is None:
            async for one in remote.logs(key, limit, follow=follow):
                click.echo("\n".join(log_lines(one)))
            return
        one = await (remote.end(key, id_) if follow else remote.execution(key, id_))
        if one["state"] == "Finished":
            click.echo("\n".join(log_lines(one)))
        else:
            click.echo(f"{id_} is not over: {one['state']}; -f waits for it", err=True)

    _ask(url, show)


def _key(name: str, namespace: str | None) -> "WorkflowKey":
    from sluice.workflow import WorkflowKey

    if namespace is None:
        from sluice.adapters.kubernetes.api import current_namespace

        namespace = current_namespace()
    return WorkflowKey(namespace, name)


def _ask(url: str, question: Callable[["Remote"], Coroutine[Any, Any, _T]]) -> _T:
    from sluice.adapters.remote import Remote

    async def ask() -> _T:
        async with Remote(url) as remote:
            return await question(remote)

    return asyncio.run(ask())
