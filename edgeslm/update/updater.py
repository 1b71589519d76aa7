"""The updater: switches a model of a running node to another bundle, and rolls back if the bundle fails.

::

    bring -> verify, signature -> prepare -> smoke test -> checks -> switch -> trial -> proved
      |           |                              |           |         |        |
      +-----------+------------------------------+-----------+         +--------+--> rolled back

The old bundle serves requests until the switch. Before the switch, the node records on disk that the new
bundle is on trial. A node that crashes during the trial continues the trial at its next start, up to two
times; after a further crash, it returns to the old bundle.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from edgeslm.bundle.manifest import Bundle
from edgeslm.bundle.trust import Trust
from edgeslm.config.loader import Config
from edgeslm.engine.prepack.prepare import prepare
from edgeslm.errors import BundleError, Busy, EdgeslmError, InvalidRequest, SelfTestError, without_paths
from edgeslm.serving.service import Service, SwitchCheck
from edgeslm.telemetry.extension import Announces, Extension
from edgeslm.telemetry.health import Meter
from edgeslm.update.canary import Canary
from edgeslm.update.checks import check, smoke
from edgeslm.update.command_file import CommandFile, FileCommand
from edgeslm.update.exchange import Exchange
from edgeslm.update.incoming import Incoming
from edgeslm.update.outcomes import State, UpdateOutcome, UpdateOutcomes
from edgeslm.update.slots import base_of, losses, present, slot_of, task_of, tasks_of
from edgeslm.update.store import Store

if TYPE_CHECKING:
    from edgeslm.update.staging import Staging

log = logging.getLogger("edgeslm.update")

LOOK_EVERY_S: Final = 1.0
FOLDER_EVERY_S: Final = 5.0
BY_HAND: Final = "somebody switched it back"
AGAIN_S: Final = 60.0
"""Pause before a failed rollback is retried."""


class Reloader(Protocol):
    """Redeploys the current configuration after one of its bundles was replaced."""

    @property
    def config(self) -> Config: ...
    @property
    def alone(self) -> asyncio.Lock:
        """Lock that the caller holds while it replaces the bundle and calls :meth:`serve_again`."""

    async def serve_again(self, check: SwitchCheck | None = None) -> None:
        """Redeploys the configuration with ``Service.replace``.

        :raises EdgeslmError: the deployment failed; nothing has changed.
        """


class Updater(Extension):
    """Updates a node's models, one at a time; ``presence`` announces each step."""

    def __init__(
        self, store: Store, reloader: Reloader, service: Service, meter: Meter, presence: Announces
    ) -> None:
        self._store = store
        self.entry = store.entry
        self._reloader = reloader
        self._service = service
        self._meter = meter
        self._presence = presence
        config = reloader.config
        self._command_file = CommandFile(config.state_dir, config.node)
        self._exchange = Exchange(config.state_dir, config.node) if config.rollouts is not None else None
        self._alone = asyncio.Lock()
        self._trials: dict[str, Canary] = {}
        self._incoming: Incoming | None = None
        self._stale: dict[str, str] = {}
        """Maps a model on trial to the digest of the bundle to delete once the trial succeeds."""
        self._staged: list[str] = []
        """Digests of bundles staged by a rollout process."""
        self._looked = 0.0
        self._stop = threading.Event()
        self._update_outcomes = UpdateOutcomes(store.folder, reloader.config.node)
        self.outcomes: dict[str, UpdateOutcome] = {}
        """Outcome of each model's last update."""

    @property
    def alerts(self) -> Sequence[str]:
        wrong = [
            f"Model {name} did not become {one.bundle}: {one.why}."
            for name, one in self.outcomes.items()
            if one.state in ("REJECTED", "FAILED")
        ]
        unseen = self._incoming.problem if self._incoming is not None else None
        return [*wrong, *self._store.problems.values(), *([unseen] if unseen else [])]

    def health(self) -> Mapping[str, Any]:
        return {"updates": {name: outcome.figures() for name, outcome in self.outcomes.items()}}

    @property
    def config(self) -> Config:
        return self._reloader.config

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Context manager: inside the block, other processes can see that the node runs."""
        with contextlib.ExitStack() as seen:
            for file in filter(None, (self._command_file, self._exchange)):
                seen.enter_context(file.running())
            yield

    def online(self) -> None:
        self._work = asyncio.create_task(self._run())

    def close(self) -> None:
        """Stops the updater, and cancels downloads in other threads."""
        self._stop.set()
        self._end_work()

    async def _run(self) -> None:
        """Runs until cancelled: watches trials, the incoming folder, and commands of ``edgeslm models`` and
        of a rollout process."""
        if self._exchange is not None:
            self._staged = list(self._exchange.status().get("staged", ()))
        if (folder := self.config.updates.watch) is not None:
            record = self._store.folder / f"taken-{self.config.node}.json"
            self._incoming = Incoming(folder, record)
        for name in self._store.on_trial:
            self._begin_trial(name)
        for name in self._service.models.names:
            if name not in self._store.on_trial:
                with contextlib.suppress(OSError):  # a full disk: the next start records it
                    self._store.note_release(self._service.models.bundle(name))
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self._look()
                if self._exchange is not None:
                    await self._serve_exchange(self._exchange)
            except Exception as error:  # a full disk, or a bug: try again later
                log.error("updates are interrupted: %s", error if isinstance(error, OSError) else type(error))
                log.debug("updates", exc_info=True)
                await asyncio.sleep(FOLDER_EVERY_S)

    async def _look(self) -> None:
        for name in list(self._trials):
            await self._check_trial(name)
        command = self._command_file.next()  # a small file: needs no thread
        if command is not None:
            await self._run_command(command, self._command_file)
        if self._incoming is not None and time.monotonic() - self._looked >= FOLDER_EVERY_S:
            self._looked = time.monotonic()
            await self._take_incoming(self._incoming)

    async def bring(self, source: str, within: Sequence[str] = ()) -> Bundle:
        """Adds a bundle to the store without activating it.

        :param within: see :class:`Staging`.
        :raises BundleError: see :class:`Staging`.
        """
        return await asyncio.to_thread(self._staging(within).bring, source)

    async def take(self, archive: IO[bytes], name: str) -> Bundle:
        """Adds the bundle in an open archive to the store. :raises BundleError: see :class:`Staging`."""
        return await asyncio.to_thread(self._staging().take, archive, name)

    def _staging(self, within: Sequence[str] = ()) -> Staging:
        from edgeslm.update.downloads import ServerLogin
        from edgeslm.update.staging import Staging  # lazy: few nodes download

        updates = self.config.updates
        return Staging(
            self._store,
            budget_bytes=updates.budget_bytes,
            login=ServerLogin(ca_file=updates.ca_file),
            stop=self._stop,
            within=within,
        )

    async def update(self, model: str, bundle: Bundle, *, older: bool = False) -> UpdateOutcome:
        """Switches a model to a bundle of the store. Returns when the bundle serves requests, on trial.

        :param older: whether the bundle's release may be lower than the highest proven release.
        :raises InvalidRequest: there is no such model, or it uses this bundle already.
        :raises Busy: another update is running.
        :raises EdgeslmError: a check failed; the model is unchanged.
        """
        model = self._check(model)
        if self._alone.locked():
            raise Busy("another update is being made; try again later")
        before = self._present(model)
        if before is not None and bundle.digest == before.digest:
            raise InvalidRequest(f"model {model} is this bundle already")
        async with self._alone:
            try:
                if not older:
                    self._store.check_release(bundle)
                return await self._update(model, bundle)
            except EdgeslmError as error:
                self._note(model, "REJECTED", bundle, str(error).partition("\n")[0].rstrip("."))
                raise
            except OSError as error:
                self._note(model, "REJECTED", bundle, f"the disk: {error.strerror}")
                raise BundleError(f"{self._store.folder}: {error.strerror}") from None
            except Exception as error:
                self._note(model, "REJECTED", bundle, f"the node failed on it ({type(error).__name__})")
                raise

    async def _update(self, model: str, bundle: Bundle) -> UpdateOutcome:
        self._note(model, "IN_PROGRESS", bundle, step="verifying")
        trust = Trust(self.config.signing, self.config.state_dir)
        trusted = trust.load(bundle.path)
        await trust.check()
        if model in self.config.models:
            await self._prepare(model, trusted)
        self._note(model, "IN_PROGRESS", bundle, step="testing")
        await smoke(model, trusted, self.config, self._service.deployment)
        self._note(model, "IN_PROGRESS", bundle, step="switching")
        base = await asyncio.to_thread(base_of, self.config, model)
        before = self._store.entry(model)
        async with self._reloader.alone:
            self._store.activate(model, base, bundle.digest, on_trial=True)
            try:
                await self._reloader.serve_again(functools.partial(check, model))
            except BaseException:
                self._store.restore(model, before)
                raise
        self._begin_trial(model)
        if before is not None and before.previous is not None:
            self._stale[model] = before.previous
        return self._note(model, "ON_TRIAL", bundle, step="watching")

    def _present(self, slot: str) -> Bundle | None:
        return present(self._service.deployment, slot)

    async def roll_back(self, model: str, why: str = "") -> str:
        """Switches a model back to its previous bundle. :return: digest of the bundle that serves now.

        :raises BundleError: there is no previous bundle, or it can't be loaded.
        """
        model = self._check(model)
        async with self._alone:
            bundle = self._present(model)
            if bundle is None:
                raise BundleError(f"{model} has nothing to go back to")
            entry = self._store.entry(model)
            async with self._reloader.alone:
                digest = self._store.roll_back(model)
                try:
                    await self._reloader.serve_again()
                except BaseException:
                    self._store.restore(model, entry)
                    raise
            self._trials.pop(model, None)
            self._stale.pop(model, None)
            if why:
                log.error("model %s is taken back from %s: %s", model, bundle.path.name, why)
                self._note(model, "FAILED", bundle, why)
            else:
                self.outcomes.pop(model, None)
                done = UpdateOutcome("FAILED", "watching", bundle.manifest.name, bundle.digest, BY_HAND)
                self._update_outcomes.write(model, done.figures())
            self._presence.announce_health()
            return digest

    def _check(self, name: str) -> str:
        """The slot of a model or task.

        :raises Busy: the node isn't online. :raises InvalidRequest: there is no such model or task.
        """
        if self._presence.state != "online":
            raise Busy("the node is starting, or draining")
        slot = slot_of(name, self.config)
        if task_of(slot) is None and slot not in self._service.models.names:
            raise InvalidRequest(f"there is no model {slot!r} here")
        return slot

    async def _prepare(self, model: str, bundle: Bundle) -> None:
        """Prepacks the new bundle's weights before the switch, if there is disk space."""
        if bundle.manifest.model_kind != "decoder" or self.config.prepare != "auto":
            return
        graph = self._service.models.graph(model)
        own = bundle.manifest.graphs
        wanted = (
            own.adapters
            if graph == self._service.models.bundle(model).manifest.graphs.adapters
            else own.generate
        )
        if wanted is None:
            return
        self._note(model, "IN_PROGRESS", bundle, step="preparing")
        keep = [self._service.models.bundle(name).digest for name in self._service.models.names]
        try:
            await prepare(bundle, wanted, self.config.state_dir, background=True, keep=[*keep, bundle.digest])
        except SelfTestError:
            raise
        except (EdgeslmError, OSError, ValueError) as error:
            log.warning("%s is not prepared before it serves: %s", bundle.path, error)

    def _note(
        self, model: str, state: State, bundle: Bundle, why: str = "", *, step: str = ""
    ) -> UpdateOutcome:
        before = self.outcomes.get(model)
        step = step or (before.step if before is not None else "")
        why = without_paths(why)
        outcome = UpdateOutcome(state, step, bundle.manifest.name, bundle.digest, why)
        self.outcomes[model] = outcome
        log.info("model %s, %s: %s, %s %s", model, bundle.manifest.name, state, step, why)
        if state in ("SUCCEEDED", "FAILED", "REJECTED"):
            self._update_outcomes.write(model, outcome.figures())
        self._presence.announce_health()
        return outcome

    # Trials

    def _begin_trial(self, model: str) -> None:
        """Starts to watch a model's trial if the model uses the recorded bundle. The model uses another
        bundle if the recorded bundle is unusable or the configuration has changed."""
        entry, serving, deployment = self._store.entry(model), self._present(model), self._service.deployment
        if entry is not None and serving is not None and serving.digest == entry.active:
            ends, tasks = losses(deployment, model), tasks_of(deployment, model)
            self._trials[model] = Canary.begin(entry.active, tasks, ends, self._meter.counts)

    async def _check_trial(self, model: str) -> None:
        trial, serving = self._trials[model], self._present(model)
        if serving is None or serving.digest != trial.digest:
            del self._trials[model]
            return
        if time.monotonic() < trial.next_look:
            return
        why = trial.why_bad(losses(self._service.deployment, model), self._meter.counts)
        if why:
            try:
                await self.roll_back(model, why)
            except (EdgeslmError, OSError) as error:
                trial.next_look = time.monotonic() + AGAIN_S
                self._note(model, "FAILED", serving, f"{why}; it can't be taken back: {error}")
        elif time.monotonic() - trial.began >= self.config.updates.trial_s:
            self._store.prove(model)
            self._store.note_release(serving)
            del self._trials[model]
            if (stale := self._stale.pop(model, None)) is not None:
                with contextlib.suppress(BundleError):  # still in use elsewhere
                    self._store.remove(stale, self.config)
            self._note(model, "SUCCEEDED", serving, step="done")

    # Commands of other processes

    async def _serve_exchange(self, exchange: Exchange) -> None:
        await self._tell_status(exchange)
        if (command := exchange.next()) is not None:
            await self._run_command(command, exchange)

    async def _tell_status(self, exchange: Exchange) -> None:
        models, on_trial = self._service.models, self._store.on_trial
        digests = {name: models.bundle(name).digest for name in self.config.models if name in models.names}
        status = {
            "models": {
                name: {"digest": digest, "on_trial": name in on_trial} for name, digest in digests.items()
            },
            "verdicts": self._update_outcomes.all(),
            "staged": self._staged,
        }
        await asyncio.to_thread(exchange.tell_status, status)

    async def _stage(self, command: FileCommand, exchange: CommandFile) -> dict[str, Any]:
        """Stages an archive of the rollout process; deletes unused bundles of earlier archives."""
        if not isinstance(exchange, Exchange):
            raise InvalidRequest("only a rollout's process has archives")
        with exchange.archive(command.file) as archive:
            bundle = await asyncio.to_thread(self._staging().take, archive, str(command.file))
        trust = Trust(self.config.signing, self.config.state_dir)
        trust.load(bundle.path)
        gone = [digest for digest in self._staged if digest != bundle.digest]
        try:
            await trust.check()
        except BundleError:
            gone.append(bundle.digest)
            raise
        finally:
            for digest in gone:
                with contextlib.suppress(BundleError):  # in use, or deleted already
                    await asyncio.to_thread(self._store.remove, digest, self.config)
            kept = {one.bundle.digest for one in self._store.bundles()}
            self._staged = [digest for digest in (*gone, bundle.digest) if digest in kept]
        return {"digest": bundle.digest}

    async def _run_command(self, command: FileCommand, command_file: CommandFile) -> None:
        outcome: dict[str, Any]
        try:
            if command.action == "rollback":
                outcome = {"digest": await self.roll_back(command.model)}
            elif command.action == "stage":
                outcome = await self._stage(command, command_file)
            else:
                bundle = self._store.find(command.digest or "")
                done = await self.update(command.model, bundle, older=command.older)
                outcome = done.figures()
        except (EdgeslmError, OSError) as error:
            outcome = {"error": str(error), "later": isinstance(error, Busy)}
        except Exception as error:  # a bug; the command still needs an answer
            log.error("an update failed: %s", type(error).__name__)
            log.debug("an update failed", exc_info=True)
            outcome = {"error": f"the node failed on it ({type(error).__name__})"}
        with contextlib.suppress(OSError):
            if isinstance(command_file, Exchange):
                await self._tell_status(command_file)  # before the answer
            await asyncio.to_thread(command_file.tell, command, outcome)

    async def _take_incoming(self, incoming: Incoming) -> None:
        names = {*self.config.models, *self.config.tasks}
        for model, path, mark in await asyncio.to_thread(incoming.look, names):
            if self._alone.locked():
                return  # the next look finds it again
            again = False
            try:
                incoming.begin(model, mark)
                await self.update(model, await self.bring(str(path)))
            except Busy:  # the next look finds it again
                again = True
            except InvalidRequest as error:
                log.info("%s: %s", path, error)
            except (EdgeslmError, OSError) as error:
                log.error("%s is not installed: %s", path, error)
                slot = slot_of(model, self.config)
                if slot not in self.outcomes or self.outcomes[slot].state != "REJECTED":
                    why = without_paths(str(error)).rstrip(".")
                    self.outcomes[slot] = UpdateOutcome("REJECTED", "staging", path.name, "", why)
                    self._presence.announce_health()
            with contextlib.suppress(OSError):
                incoming.end(model, mark, again=again)

    def note_taken_back(self, model: str, why: str) -> None:
        """Records a rollback that the node made at its start."""
        why = without_paths(why)
        self.outcomes[model] = UpdateOutcome("FAILED", "starting", "what it was switched to", "", why)
        self._update_outcomes.write(model, self.outcomes[model].figures())
