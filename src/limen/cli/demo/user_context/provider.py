"""The provider of the demo: django-oauth-toolkit in a process of its own, over TLS.

It is not ours, knows nothing of Limen, and its access tokens are opaque. Here stands only what one
configures: an account, a web app, and the client that may introspect. Run as a program:
`python -m limen.cli.demo.user_context.provider FILE`, where FILE (0600) is JSON: `{"port", "chain",
"key", "database", "secret", "password", "web_secret", "introspection_secret", "redirect",
"life_s"}`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

USER = "ann"
WEB, INTROSPECTOR = "web", "limen"
SCOPES = {"orders.read": "Read orders", "stock.read": "Read stock", "introspection": "Introspect"}


def configure(settings: dict[str, Any]) -> None:
    """Django's settings: as few as there can be."""
    from django.conf import settings as django  # noqa: PLC0415 - only this process needs it

    django.configure(
        SECRET_KEY=settings["secret"],
        ALLOWED_HOSTS=["localhost", "127.0.0.1"],
        ROOT_URLCONF="limen.cli.demo.user_context.provider",
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": settings["database"]}
        },
        INSTALLED_APPS=[
            "django.contrib.auth",
            "django.contrib.contenttypes",
            "django.contrib.sessions",
            "django.contrib.messages",
            "oauth2_provider",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
            "django.contrib.messages.middleware.MessageMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "loaders": [("django.template.loaders.locmem.Loader", {"login.html": LOGIN})]
                },
            }
        ],
        OAUTH2_PROVIDER={
            "SCOPES": SCOPES,
            "ACCESS_TOKEN_EXPIRE_SECONDS": settings["life_s"],
            "PKCE_REQUIRED": True,
        },
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        LOGIN_URL="/login",
        USE_TZ=True,
        LOGGING_CONFIG=None,
    )


LOGIN = """<form method="post">{% csrf_token %}{{ form }}<button>Log in</button></form>"""


def urlpatterns_of() -> list[Any]:
    """The library's own views, and Django's login form."""
    from django.contrib.auth.views import LoginView  # noqa: PLC0415 - after `configure`
    from django.urls import include, path  # noqa: PLC0415 - as above

    return [
        path("login", LoginView.as_view(template_name="login.html")),
        path("o/", include("oauth2_provider.urls", namespace="oauth2_provider")),
    ]


def __getattr__(name: str) -> Any:
    """Django looks for `urlpatterns` here, once it is configured."""
    if name == "urlpatterns":
        return urlpatterns_of()
    raise AttributeError(name)


def fill(settings: dict[str, Any]) -> None:
    """The account and the clients."""
    from django.contrib.auth import get_user_model  # noqa: PLC0415 - after `configure`
    from django.core.management import call_command  # noqa: PLC0415 - as above
    from oauth2_provider.models import get_application_model  # noqa: PLC0415 - as above

    call_command("migrate", verbosity=0)
    user = get_user_model().objects.create_user(USER, password=settings["password"])
    application = get_application_model()
    common = {"user": user, "client_type": application.CLIENT_CONFIDENTIAL}
    application.objects.create(
        client_id=WEB,
        client_secret=settings["web_secret"],
        authorization_grant_type=application.GRANT_AUTHORIZATION_CODE,
        redirect_uris=settings["redirect"],
        skip_authorization=True,
        **common,
    )
    application.objects.create(
        client_id=INTROSPECTOR,
        client_secret=settings["introspection_secret"],
        authorization_grant_type=application.GRANT_CLIENT_CREDENTIALS,
        **common,
    )


def main() -> None:
    """Serve until told to stop."""
    import uvicorn  # noqa: PLC0415 - only this process needs it

    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    configure(settings)
    import django  # noqa: PLC0415 - as above

    django.setup()
    fill(settings)
    from django.core.asgi import get_asgi_application  # noqa: PLC0415 - after `configure`

    uvicorn.run(
        get_asgi_application(),
        host="127.0.0.1",
        port=settings["port"],
        ssl_certfile=settings["chain"],
        ssl_keyfile=settings["key"],
        log_level="warning",
        lifespan="off",
    )


if __name__ == "__main__":
    main()
