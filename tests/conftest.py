"""For every test: how long an example takes says nothing about whether it is right."""

from hypothesis import settings

settings.register_profile("kpiflow", deadline=None)
settings.load_profile("kpiflow")
