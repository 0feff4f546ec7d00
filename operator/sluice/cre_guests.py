"""CRE workflows: asked once what they subscribe to, and run with the operator's capabilities."""

import asyncio
import hashlib
import logging
from functools import partial

from sluice.capabilities import Capabilities
from sluice.cre.proto.sdk_pb2 import TriggerSubscription, TriggerSubscriptionRequest
from sluice.errors import ContentInvalid, EngineRefused, WorkflowInvalid
from sluice.event import Event
from sluice.executions.performing import Guest
from sluice.executions.pool import Pool
from sluice.life import names
from sluice.outcome import Outcome, OutcomeKind
from sluice.remembered import Remembered
from sluice.supply import Supply
from sluice.triggers import cre
from sluice.wasm.cre_engine import CreEngine, CreExecution
from sluice.wasm.interrupt import Cancel
from sluice.wasm.lending import Lending
from sluice.wasm.runtime import Module, Runtime
from sluice.workflow import Workflow

log = logging.getLogger(__name__)
# Guests that say at the same time what they subscribe to: each is a guest that runs.
_THREADS = 2


class CreGuests:
    """Makes guests of CRE workflows; threads are there from the first that has to be asked."""

    def __init__(self, runtime: Runtime, supply: Supply, capabilities: Capabilities) -> None:
        self._runtime, self._supply, self._capabilities = runtime, supply, capabilities
        settings = runtime.settings
        self._settings = settings
        self._remembered = Remembered(
            settings.data_dir / "subscriptions", settings.cre_subscriptions_remembered_max
        )
        self._pool: Pool | None = None

    async def open(self, module: Module, workflow: Workflow, config: str) -> Guest:
        """Return the guest of a module and a config.

        Raises:
            WorkflowInvalid: it cannot say what it subscribes to, or that cannot be had here.
            EngineRefused: it did not say so in time.

        """
        engine = CreEngine(self._runtime, module, workflow, config)
        try:
            said = await self._subscriptions(engine, workflow, config)
            served = cre.served(workflow, said, self._settings)
        except WorkflowInvalid as e:
            raise await self._until_config_changes(e, workflow, config) from None
        loop = asyncio.get_running_loop()
        return Guest(served, engine, partial(_fired, self._capabilities, served, loop))

    def close(self) -> None:
        if self._pool:
            self._pool.close()

    async def _subscriptions(
        self, engine: CreEngine, workflow: Workflow, config: str
    ) -> tuple[TriggerSubscription, ...]:
        digest = workflow.digest
        found = await asyncio.to_thread(self._remembered.find, digest, config)
        if found is not None:
            engine.remember(found.subscriptions)
            return tuple(found.subscriptions)
        said = await self._asked(engine, workflow)
        request = TriggerSubscriptionRequest(subscriptions=said)
        await asyncio.to_thread(self._remembered.keep, digest, config, request)
        return said

    async def _asked(
        self, engine: CreEngine, workflow: Workflow
    ) -> tuple[TriggerSubscription, ...]:
        """Run the guest in a thread with a guest's stack; its end is awaited, whatever comes."""
        if self._pool is None:  # there is a CRE workflow only now
            self._pool = Pool(_THREADS)
        cancel = Cancel()
        done: asyncio.Future[tuple[TriggerSubscription, ...] | Exception]
        done = asyncio.get_running_loop().create_future()
        heard = partial(log.info, "it says while it subscribes: %s", extra=names(workflow.key))
        self._pool.run(partial(_subscribe, engine, heard, cancel), done.set_result)
        try:
            answer = await asyncio.shield(done)
        except asyncio.CancelledError:
            cancel.cancel(OutcomeKind.CANCELLED, "another revision is wanted")
            await asyncio.wait([done])
            raise
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _until_config_changes(
        self, error: WorkflowInvalid, workflow: Workflow, config: str
    ) -> Exception:
        """Return the error as one that another config may heal, where it is in a ConfigMap."""
        if workflow.spec.config_from is None:
            return error
        name = workflow.spec.config_from.config_map_key_ref.name
        version = await self._supply.version(workflow.key.namespace, name)
        if await self._supply.config(workflow) != config:  # it has changed meanwhile
            return EngineRefused(error.reason, error.message)
        return ContentInvalid(error.reason, error.message, {name: version})


def _subscribe(
    engine: CreEngine, heard: "partial[None]", cancel: Cancel
) -> tuple[TriggerSubscription, ...] | Exception:
    try:
        return engine.subscribe(heard, cancel)
    except Exception as e:  # noqa: BLE001 - a thread of the pool never raises
        return e


def _fired(
    capabilities: Capabilities,
    workflow: Workflow,
    loop: asyncio.AbstractEventLoop,
    engine: Lending,
    event: Event,
    source: str,
    attempt: int,  # noqa: ARG001 - the same execution to CRE, with the same chance and the same id
    cancel: Cancel,
) -> Outcome:
    """Run a CRE guest for an event of one of its triggers."""
    assert isinstance(engine, CreEngine)
    trigger = cre.told(event, engine.subscriptions or ())
    helper = capabilities.bind(workflow, execution_id(source, event), loop)
    execution = CreExecution(trigger=trigger.id, payload=trigger.payload, helper=helper)
    return engine.run(execution, cancel)


def execution_id(source: str, event: Event) -> str:
    """Return 64 hex digits, as ids of executions are in CRE; the seed of chance is made of it."""
    return hashlib.sha256(f"{source} {event.id}".encode()).hexdigest()
