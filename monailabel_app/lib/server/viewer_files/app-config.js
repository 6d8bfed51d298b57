// The configuration that the OHIF viewer asks for; see config.js.
document.cookie = `MONAILABEL_SERVER_URL=${encodeURIComponent(`${window.location.origin}/`)}; samesite=strict`;
window.config = async ({ peerImport }) => (await import('/ohif/sonodistill/config.js')).configuration(peerImport);
