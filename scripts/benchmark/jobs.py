"""All jobs of the benchmark, in the order of its table."""

from __future__ import annotations

from panoptic_occ.common.errors import ConfigError, did_you_mean
from scripts.benchmark import jobs_maps, jobs_masks, jobs_networks
from scripts.benchmark.measure import Job


def all_jobs() -> list[Job]:
    """Every job at every size."""
    return [*jobs_maps.jobs(), *jobs_masks.jobs(), *jobs_networks.jobs()]


def chosen(names: list[str]) -> list[Job]:
    """The jobs of these names, or all; ConfigError for an unknown name."""
    found = all_jobs()
    known = dict.fromkeys(job.name for job in found)
    for name in names:
        if name not in known:
            raise ConfigError(f"--job {name}: there is no such job; {did_you_mean(name, known)}")
    return [job for job in found if not names or job.name in names]
