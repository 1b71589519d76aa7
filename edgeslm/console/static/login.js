// Signing in leads to the view that the address named: a form's address has no fragment, unless its action has one.

const form = document.querySelector("form");
form.action = `login${location.hash}`;
addEventListener("hashchange", () => { form.action = `login${location.hash}`; });
