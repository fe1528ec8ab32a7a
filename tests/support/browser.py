"""A page in a browser whose network is cut."""


class Visit:
    """A page opened with the network cut; collects what it asked for and what is wrong with it.

    That is whatever it prints, and formulas that stay unset.

    ``browser`` may be one of its contexts too, whose pages open sooner.
    """

    def __init__(self, browser, address, inside, **options):
        from playwright.sync_api import TimeoutError

        self.outside, self.complaints = [], []
        self.page = browser.new_page(**options)
        self.page.route(lambda url: not url.startswith(inside), self._refuse)
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(address)
        formulas = "[...document.querySelectorAll('.math')]"
        done = f"() => {formulas}.every(formula => formula.querySelector('mjx-container'))"
        try:
            self.page.wait_for_function(done, timeout=10_000)
        except TimeoutError as error:
            self.complaints.append(f"formulas are not set: {error.message}")

    def _refuse(self, route):
        self.outside.append(route.request.url)
        route.abort()
