// Tells the user when the server is gone, and lets the page go on when it is back.
const notice = Object.assign(document.createElement("div"), {id: "gone", role: "alert", textContent:
    "The server does not answer: what is shown is old. This page goes on by itself when dashboard.py runs again at this address."});
(async () => {
    for (let gone = false; ; await new Promise(done => setTimeout(done, 1000))) {
        let answered = false;
        try { answered = (await fetch("alive", {cache: "no-store", signal: AbortSignal.timeout(10000)})).ok } catch {}
        if (answered && gone)                       // the refresh that was never answered has left the clock disabled
            dash_clientside.set_props("tick", {disabled: false});
        gone = !answered;
        document.body.append(notice);
        document.body.classList.toggle("gone", gone);
    }
})();
