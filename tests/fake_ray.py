"""A stand-in for Ray in this process: actors on the caller's event loop, with everything that travels pickled."""

import asyncio
import pickle
import types


def travelled(thing):
    """The thing as it arrives elsewhere."""
    return pickle.loads(pickle.dumps(thing))  # noqa: S301  our own


class RayError(Exception):
    pass


class RayActorError(RayError):
    pass


class FakeRay:
    """The few names of Ray that are used, and ways to make trouble.

    Attributes
    ----------
    refusal
        What `init` raises, if anything.
    held
        Whether actors that are made or that died stay down until `let_up`.
    log
        Names of the methods that were called, with the number of requests of an 'ask'.
    """

    def __init__(self):
        self.actors, self.log, self.inits = [], [], []
        self.refusal, self.held, self.running = None, False, False
        self.exceptions = types.SimpleNamespace(RayError=RayError, RayActorError=RayActorError)

    def modules(self):
        module = types.ModuleType("ray")
        for name in ("init", "is_initialized", "shutdown", "remote", "kill", "exceptions"):
            setattr(module, name, getattr(self, name))
        exceptions = types.ModuleType("ray.exceptions")
        exceptions.RayError, exceptions.RayActorError = RayError, RayActorError
        return {"ray": module, "ray.exceptions": exceptions}

    def is_initialized(self):
        return self.running

    def init(self, address, **settings):
        self.inits.append((address, settings))
        if self.refusal is not None:
            raise self.refusal
        self.running = True

    def shutdown(self):
        self.running = False

    def remote(self, kind):
        return Kind(self, kind)

    def kill(self, actor):
        actor.die(for_good=True)


class Kind:
    def __init__(self, ray, kind):
        self.ray, self.kind, self.settings = ray, kind, {}

    def options(self, **settings):
        self.settings = settings
        return self

    def remote(self, *arguments):
        actor = Actor(self.ray, self.kind, travelled(arguments), self.settings)
        self.ray.actors.append(actor)
        return actor


class Actor:
    """An actor and its handle."""

    def __init__(self, ray, kind, arguments, settings):
        self._ray, self._kind, self._arguments, self.settings = ray, kind, arguments, settings
        self.gone, self.deaths = False, 0
        self.instance = None
        self._changed = asyncio.Event()
        if not ray.held:
            self.let_up()

    def let_up(self):
        self.instance = self._kind(*travelled(self._arguments))
        self._change()

    def die(self, *, for_good=False):
        instance, self.instance, self.gone = self.instance, None, for_good
        self.deaths += 1
        for task in instance._running.values() if instance else ():
            task.cancel()
        if not self._ray.held and not for_good:
            self.instance = self._kind(*travelled(self._arguments))
        self._change()

    def _change(self):
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def __getattr__(self, name):
        return Method(self, name, self.settings.get("max_task_retries", 0))

    async def call(self, name, arguments, retries):
        self._ray.log.append((name, len(arguments[1]) if name == "ask" else 0))
        while not self.gone:
            instance, changed = self.instance, asyncio.ensure_future(self._changed.wait())
            if instance is None:
                if not retries:
                    changed.cancel()
                    break
                await changed
                continue
            work = asyncio.ensure_future(getattr(instance, name)(*travelled(arguments)))
            try:
                await asyncio.wait([work, changed], return_when=asyncio.FIRST_COMPLETED)
                if work.done() and instance is self.instance:
                    return travelled(work.result())
            finally:
                work.cancel()
                changed.cancel()
                await asyncio.gather(work, changed, return_exceptions=True)
            if not retries:
                break
        raise RayActorError("The actor died.")


class Method:
    def __init__(self, actor, name, retries):
        self.actor, self.name, self.retries = actor, name, retries

    def options(self, *, max_task_retries):
        return Method(self.actor, self.name, max_task_retries)

    def remote(self, *arguments):
        return self.actor.call(self.name, arguments, self.retries)
