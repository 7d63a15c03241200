"""What goes wrong when an image is pulled from a registry.

::

    StoreError
    └── OciError                     names the image
        ├── OciReferenceError        no reference to an image
        ├── OciNotFoundError         no such image, or tag
        ├── OciLoginError            it needs a login, or another one
        ├── OciPlatformError         not for this kind of machine
        ├── OciUnreachableError      the registry does not answer, or only "later"
        ├── OciDigestError           what came is not what was asked for
        ├── OciContentError          no image, or one that cannot be unpacked
        ├── OciDiskFullError         no room for it here
        └── OciCancelledError        nobody wants it any more
"""

from __future__ import annotations

from skylift.lazyfs.store import StoreError


class OciError(StoreError):
    """An image could not be pulled."""


class OciReferenceError(OciError):
    """A text that refers to no image."""


class OciNotFoundError(OciError):
    """The registry has no such image, or the image no such tag."""


class OciLoginError(OciError):
    """The registry wants a login, or does not accept the one that it got."""


class OciPlatformError(OciError):
    """The image is not made for this kind of machine."""


class OciUnreachableError(OciError):
    """The registry does not answer, or asked to come later as often as it was tried."""


class OciDigestError(OciError):
    """What came has another hash than what was asked for."""


class OciContentError(OciError):
    """It is no image of containers, or one that cannot be unpacked."""


class OciDiskFullError(OciError):
    """There is no room for the image while it is unpacked."""


class OciCancelledError(OciError):
    """The pull was cancelled."""
