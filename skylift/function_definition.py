"""What the gateway has to know of a function before its calls: code and container, and their common hash."""

from __future__ import annotations

import msgspec
from blake3 import blake3

from skylift.client import Client
from skylift.function_code import FunctionCode
from skylift.image import Image
from skylift.image_checks import check_built, check_python
from skylift.local_modules import local_modules, named_in
from skylift.options import FunctionOptions
from skylift.volume_options import mounts_of
from skylift.waiting import Waiter
from skylift.wire import INLINE_LIMIT, Define, ImageSpec


class Definition:
    """Makes a function's `Define`, and makes it anew only when code or environment have changed."""

    def __init__(
        self,
        app: str,
        name: str,
        options: FunctionOptions,
        code: FunctionCode,
        is_generator: bool,
        parameters: str = "",
    ) -> None:
        """`parameters`: see `FunctionSpec.parameters`."""
        self._app = app
        self._name = name
        self._options = options
        self._code = code
        self._is_generator = is_generator
        self._parameters = parameters
        self._local: tuple[bytes, tuple[str, ...]] | None = None
        self._kept: tuple[bytes, ImageSpec, frozenset[str], str, Define] | None = None

    async def current(self, waiter: Waiter, client: Client, image: Image, moment: object) -> Define:
        """The definition of the function as it is now.

        Raises `SerializationError` naming a captured variable that cannot travel, `VersionError` where the
        image has another Python than this one, and what building the image raises.
        """
        by_value = self._code.reference() is None
        check_python(image._python, self._name, by_value)
        code = self._code.pickled()
        modules = self._modules(code) if image._chain is not None else ()
        image_spec = await image._ready(waiter, client, moment, modules)
        check_built(image_spec, self._name, by_value)
        imports = image._imports
        mounts = await mounts_of(waiter, client.http, self._options.volumes) if self._options.volumes else ()
        kept = self._kept
        if (
            kept is not None
            and (kept[0] is code or kept[0] == code)
            and kept[1] is image_spec
            and kept[2] is imports
            and kept[3] == client.gateway_id
            and kept[4].spec.volumes == mounts
        ):
            return kept[4]
        spec = msgspec.structs.replace(
            self._options.spec(
                self._app, self._name, image_spec, is_generator=self._is_generator, volumes=mounts
            ),
            preload=tuple(sorted(self._code.preload() | imports)),
            template_code=self._code.template_code(),
            parameters=self._parameters,
        )
        digest = blake3(code)
        digest.update(msgspec.msgpack.encode(spec))
        if len(code) > INLINE_LIMIT:
            payload = await waiter.call(client.http.payload, code)
        else:
            payload = client.http.payload(code)
        define = Define(function_id=f"fu-{digest.hexdigest()[:40]}", spec=spec, code=payload)
        self._kept = (code, image_spec, imports, client.gateway_id, define)
        return define

    def _modules(self, code: bytes) -> tuple[str, ...]:
        """The modules that the code needs and that are not installed here."""
        if self._local is None or self._local[0] is not code:
            names = named_in(code) | self._code.preload()
            self._local = (code, local_modules(names))
        return self._local[1]
