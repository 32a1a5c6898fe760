"""A site of Django's, which has one configuration in a process: sessions in signed cookies, and no database."""

from __future__ import annotations

from typing import Any

import django
from django.conf import settings
from django.contrib.sessions.backends.signed_cookies import SessionStore
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path


async def _login(request: HttpRequest) -> HttpResponse:
    request.session["user"] = request.GET["user"]
    return HttpResponse("in")


async def _logout(request: HttpRequest) -> HttpResponse:
    request.session.clear()
    return HttpResponse("out")


async def _hello(_: HttpRequest) -> HttpResponse:
    return HttpResponse("hello")


urlpatterns = [path("login", _login), path("logout", _logout), path("hello", _hello)]


def application() -> Any:
    """Return the site as an ASGI application."""
    if not settings.configured:
        settings.configure(
            SECRET_KEY="s" * 50,
            ROOT_URLCONF=__name__,
            ALLOWED_HOSTS=["*"],
            SESSION_ENGINE="django.contrib.sessions.backends.signed_cookies",
            MIDDLEWARE=["django.contrib.sessions.middleware.SessionMiddleware"],
            USE_TZ=True,
        )
        django.setup()
    return get_asgi_application()


async def of_django(connection: Any) -> str | None:
    """Return the user of Django's session."""
    user: str | None = SessionStore(connection.cookies.get("sessionid")).get("user")
    return user
