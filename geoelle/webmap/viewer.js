// What folium's plugins cannot do: one raster at a time, alerts that follow its date, and saying what is shown.
(function () {
  "use strict";

  if (typeof L === "undefined" || !L.Control.GroupedLayers) {
    document.addEventListener("DOMContentLoaded", function () {
      var note = document.getElementById("geoelle-showing");
      if (note) {
        note.textContent = "Leaflet could not be loaded: this file links it, and there is no network.";
      }
    });
    return;
  }

  // Radio buttons of one name exclude each other, so difficulty and delta never lie on top of one another. The
  // plugin gives every group its own name.
  L.Control.GroupedLayers.include({
    _createRadioElement: function (name, checked) {
      var input = document.createElement("input");
      input.type = "radio";
      input.className = "leaflet-control-layers-selector";
      input.name = "geoelle-raster";
      input.defaultChecked = checked;
      return input;
    },
  });

  window.geoelleView = function (view) {
    var map = view.map;

    function raster() {
      return view.rasters.find(function (r) {
        return map.hasLayer(r.layer);
      });
    }

    function put(layer, on) {
      if (on && !map.hasLayer(layer)) {
        map.addLayer(layer);
      } else if (!on && map.hasLayer(layer)) {
        map.removeLayer(layer);
      }
    }

    function refresh() {
      var shown = raster();
      var date = shown ? shown.date : "";
      // Alerts belong to a date: under another date's raster they would mislead. With no raster all are shown.
      view.alerts.forEach(function (a) {
        put(a.layer, map.hasLayer(view.alertsSwitch) && (date === "" || a.date === date));
      });
      document.body.dataset.raster = shown ? shown.kind : "none";
      document.body.classList.toggle("geoelle-no-hatch", !(view.supportSwitch && map.hasLayer(view.supportSwitch)));
      document.getElementById("geoelle-showing").textContent = shown ? shown.label + " · " + shown.date : "no raster";
    }

    // The area in full, beside the layer control and not behind it.
    var layers = document.querySelector(".leaflet-control-layers-expanded");
    var right = layers ? Math.min(layers.offsetWidth + 12, map.getSize().x / 3) : 12;
    map.fitBounds(view.bounds, { paddingTopLeft: [56, 12], paddingBottomRight: [right, 36], animate: false });

    map.attributionControl.setPrefix("Leaflet");
    map.attributionControl.addAttribution(view.attribution);
    map.on("layeradd layerremove", function (event) {
      var watched = view.rasters.some(function (r) {
        return r.layer === event.layer;
      });
      if (watched || event.layer === view.alertsSwitch || event.layer === view.supportSwitch) {
        refresh();
      }
    });
    refresh();
    if (layers) {
      layers.querySelector("input:checked").scrollIntoView({ block: "nearest" });
    }

    var Position = L.Control.extend({
      options: { position: "bottomright" },
      onAdd: function () {
        var box = L.DomUtil.create("div", "geoelle-position");
        map.on("mousemove", function (event) {
          var at = event.latlng.wrap();
          box.textContent = at.lng.toFixed(5) + "°, " + at.lat.toFixed(5) + "° (lon, lat)";
        });
        map.on("mouseout", function () {
          box.textContent = "";
        });
        return box;
      },
    });
    map.addControl(new Position());
  };
})();
