from urllib.parse import quote

import pytest

from servicekit.postgres.address import keywords, password


@pytest.mark.parametrize("secret", ["a b", "a+b", "p@ss/w:rd?#%&=", "ünï", "'q\\u\"", " ", "%41"])
def test_a_password_reaches_the_driver_as_it_is(secret: str) -> None:
    assert password(f"postgresql+psycopg://u:{quote(secret, safe='')}@h:5433/d") == secret


def test_a_blank_that_is_not_encoded_is_a_blank() -> None:
    assert password("postgresql://u:a b@h/d") == "a b"


def test_options_of_the_url_stay_and_ours_come_after_them() -> None:
    found = keywords("postgresql://u:p@h/d?options=-c%20work_mem%3D8MB&sslmode=require", options="-c timezone=UTC")
    assert found == {
        "options": "-c work_mem=8MB -c timezone=UTC",
        "sslmode": "require",
        "host": "h",
        "user": "u",
        "password": "p",
        "dbname": "d",
    }


def test_several_hosts_and_sockets() -> None:
    assert keywords("postgresql://u@/d?host=a:1&host=b:2") == {"host": "a,b", "port": "1,2", "user": "u", "dbname": "d"}
    assert keywords("postgresql://u@/d?host=/run/postgresql")["host"] == "/run/postgresql"


def test_an_ipv6_address_and_what_the_query_overrides() -> None:
    assert keywords("postgresql://u:p@[::1]:5433/d?host=h&user=w") == {
        "host": "h",
        "port": 5433,
        "user": "w",
        "password": "p",
        "dbname": "d",
    }
    assert keywords("postgresql://[::1]/d")["host"] == "::1"


@pytest.mark.parametrize("url", ["h/d", "", "postgresql://u:secret@h:x/d", "postgresql://h:/d"])
def test_what_is_no_url_and_a_port_that_is_no_number_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"no URL|invalid literal"):
        keywords(url)
