from frostline.serve.limits import Limits


def test_the_limits_that_ship():
    """TEST-MATRIX 2.8."""
    limits = Limits()
    assert (limits.body, limits.pixels, limits.images) == (20 << 20, 50_000_000, 32)
    assert (limits.waiting, limits.batch, limits.gathering) == (256, 32, 0.005)
    assert (limits.answering, limits.head, limits.sending, limits.idle) == (30, 5, 20, 5)
    assert (limits.connections, limits.incomplete, limits.draining) == (100, 20, 20)
    assert limits.body <= limits.held
