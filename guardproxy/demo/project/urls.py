"""The site's five pages."""

from django.urls import path

from guardproxy.demo.project import views

urlpatterns = [
    path("page/", views.page),
    path("checkout/", views.checkout),
    path("receipt/", views.receipt),
    path("report/", views.report),
    path("slow/", views.slow),
]
