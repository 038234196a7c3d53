// asynqmon's page shows no error of an action. This shows what the server answers to one.
(function () {
  "use strict";

  function show(text, refused) {
    var notice = document.getElementById("kooworker-notice");
    if (!notice || !text) {
      return;
    }
    notice.querySelector("p").textContent = text;
    notice.classList.toggle("refused", refused);
    notice.hidden = false;
  }

  function answered(request) {
    if (request.status === 0) {
      show("There was no answer. Whether it was done is not known: look before you try again.", true);
    } else if (request.status === 401) {
      show("You are not signed in any more. Load the page again.", true);
    } else if (request.status >= 400) {
      show(request.responseText.trim() || "Refused: " + request.status, true);
    } else {
      show(decodeURIComponent(request.getResponseHeader("Kooworker-Notice") || ""), false);
    }
  }

  var open = XMLHttpRequest.prototype.open;
  XMLHttpRequest.prototype.open = function (method) {
    if (!/^(get|head)$/i.test(method)) {
      this.addEventListener("loadend", function () { answered(this); });
    }
    return open.apply(this, arguments);
  };

  document.addEventListener("click", function (event) {
    var button = event.target.closest("#kooworker-notice button");
    if (button) {
      button.parentNode.hidden = true;
    }
  });
})();
