"""Settings of hypothesis."""

from __future__ import annotations

import hypothesis

# How long an example takes says nothing: these machines are shared.
hypothesis.settings.register_profile("shared", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("shared")
