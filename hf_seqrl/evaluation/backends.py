"""The libraries that make environments, by name; the commands read this for their help, so it imports nothing."""

BACKENDS = ("gymnasium", "envpool")
USE_GYMNASIUM = 'use backend="gymnasium" (--backend gymnasium)'
NOT_DRAWN = f"EnvPool's environments are not drawn here: leave frames and videos (--video) out, or {USE_GYMNASIUM}."
