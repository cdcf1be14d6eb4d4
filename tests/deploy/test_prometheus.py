"""A real Prometheus scrapes a real service as the file in deploy/monitoring says."""

import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.monitoring.render import TEMPLATE
from tests.certificates import Pair
from tests.patience import PATIENCE
from tests.pipelines.queries.small_output import make_output
from tests.pipelines.service.test_access import House, keep_house
from tests.prometheus import PrometheusServer

SCRAPED: dict[str, Any] = yaml.safe_load((TEMPLATE.parent / "prometheus.yaml").read_text(encoding="utf-8"))
(SERVICE,) = (each for each in SCRAPED["scrape_configs"] if each["job_name"] == "service")
pytestmark = pytest.mark.skipif(shutil.which("prometheus") is None, reason="prometheus is not installed")


def point_at(house: House, client: Pair) -> dict[str, Any]:
    """The scrape configuration with the port and the files of a test's service in place of its own."""
    files = {"ca_file": house.ca.certificate, "cert_file": client.certificate, "key_file": client.key}
    assert set(SERVICE["tls_config"]) == set(files)
    ((target,),) = (each["targets"] for each in SERVICE["static_configs"])
    own = {
        "tls_config": {name: str(path) for name, path in files.items()},
        "static_configs": [{"targets": [f"{target.partition(':')[0]}:{house.port}"]}],
    }
    return {"global": {"scrape_interval": "1s"}, "scrape_configs": [SERVICE | own]}


@pytest.mark.parametrize(("client", "is_up"), [("monitoring", 1.0), ("stranger", 0.0)])
def test_the_service_is_scraped_with_a_certificate_of_the_role_monitoring_and_no_other(
    tmp_path: Path, client: str, is_up: float
) -> None:
    with keep_house(tmp_path, make_output(tmp_path / "out")) as house:
        (tmp_path / "prometheus").mkdir()
        configuration = point_at(house, house.clients[client])
        with PrometheusServer(tmp_path / "prometheus", configuration) as prometheus:
            end = time.monotonic() + PATIENCE
            while not (found := prometheus.read_values('up{job="service"}')) and time.monotonic() < end:
                time.sleep(0.2)
            assert found == [is_up]
            assert prometheus.read_values('kpiflow_service_audit_written{job="service"}') == [1.0] * int(
                is_up
            )
