"""A certificate says what its instance said when it died."""

from __future__ import annotations

import msgspec

from corps.model.certificate import Certificate, certify
from corps.model.instance import Signaled
from tests.support.build import NOW, a_dead_instance


def test_a_certificate_has_all_that_its_instance_knows() -> None:
    instance = a_dead_instance("web.3", Signaled(signal=9), attempt=2, pid=77)
    certificate = certify(instance)
    assert (certificate.key, certificate.attempt, certificate.pid) == ("web.3#2", 2, 77)
    for name in Certificate.__struct_fields__:
        assert getattr(certificate, name) == getattr(instance, name)
    data = msgspec.json.encode(certificate)
    assert msgspec.json.decode(data, type=Certificate) == certificate
    assert certificate.ended_at == NOW
