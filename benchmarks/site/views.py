"""One view of three queries: an account, its branch, the tellers there."""

import random

from django.http import HttpRequest, JsonResponse
from django.urls import path

from benchmarks.site.models import Account, Teller

ACCOUNTS = 100_000


def statement(request: HttpRequest) -> JsonResponse:
    account = Account.objects.get(pk=random.randint(1, ACCOUNTS))
    branch = account.branch
    tellers = list(Teller.objects.filter(branch=branch).values("tid", "tbalance"))
    return JsonResponse(
        {"balance": account.abalance, "branch": branch.bbalance, "tellers": tellers}
    )


urlpatterns = [path("", statement)]
