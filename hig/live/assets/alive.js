// Tells the user when the server is gone, and loads the page again when it is back.
(async () => {
    for (;; await new Promise(done => setTimeout(done, 1000))) {
        let answered = false;
        try { answered = (await fetch("assets/page.css", {cache: "no-store", signal: AbortSignal.timeout(10000)})).ok } catch {}
        if (answered && document.body.classList.contains("gone"))
            location.reload();
        document.body.classList.toggle("gone", !answered);
    }
})();
